"""Decode while a busy loop has one of the two cores, against decode on quiet cores."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bars import Bar
from engines.contender import WORKERS, Contender
from engines.venvs import LLAMA_CPP, python_of
from llm_parts.setting import THREADS, Setting

STEPS = 64
LOOP = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a bench that is killed leaves no loop
if os.getppid() != int(sys.argv[1]):
    sys.exit()
os.sched_setaffinity(0, {int(sys.argv[2])})
print(flush=True)
while True:
    pass
"""


def measure(setting: Setting) -> list[Bar]:
    """Return the bar; the peers' figures are printed."""
    threads = str(THREADS)
    with ExitStack() as stack:
        contenders = [
            stack.enter_context(each)
            for each in (
                Contender("headrace", [sys.executable, WORKERS / "run_headrace.py", setting.file, threads]),
                Contender("llama.cpp", [python_of(LLAMA_CPP), WORKERS / "run_llama_cpp.py", setting.file, threads]),
                Contender(
                    "transformers", [sys.executable, WORKERS / "run_transformers.py", setting.directory, threads]
                ),
            )
        ]
        quiet: dict[str, list[float]] = {each.name: [] for each in contenders}
        busy: dict[str, list[float]] = {each.name: [] for each in contenders}
        for repeat in range(setting.repeats + 1):
            for each in contenders:
                alone = _rate(each)
                with _busy_loop():
                    beside = _rate(each)
                if repeat:
                    quiet[each.name].append(alone)
                    busy[each.name].append(beside)
    shares = {name: statistics.median(busy[name]) / statistics.median(quiet[name]) for name in quiet}
    for name, share in shares.items():
        print(
            f"contention {name}: {statistics.median(quiet[name]):.0f} tok/s quiet,"
            f" {statistics.median(busy[name]):.0f} beside a busy loop: {share:.2f}x",
            flush=True,
        )
    return [Bar("contention", shares["headrace"], 0.4, "x", at_least=True)]


def _rate(contender: Contender) -> float:
    """Return the tokens per second of one stream. Not at real-time priority: the loop would get nothing."""
    return STEPS / sum(contender.decode(1, steps=STEPS, exclusive=False))


@contextmanager
def _busy_loop() -> Iterator[None]:
    """Run a loop on one core."""
    core = min(os.sched_getaffinity(0))
    command = [sys.executable, "-c", LOOP, str(os.getpid()), str(core)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()
