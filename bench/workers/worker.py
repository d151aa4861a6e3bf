"""A contender's process: takes measurements one at a time, so that the contenders of a run alternate.

Standard library only: it runs in each contender's own virtual environment. A request is a line of JSON on the standard
input, a result a line on what was the standard output; what libraries print there goes to the standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

CONTEXT = 32
"""Tokens of context before a decode is timed."""
FIRST_TOKEN, LAST_TOKEN = 1000, 40000
"""Token ids of the prompts: ordinary words of the vocabulary."""


class Engine(Protocol):
    """One engine with the model loaded."""

    def decode(self, streams: int, steps: int, timed: Callable[[Callable[[], object]], float]) -> list[float]:
        """Start `streams` sequences of `CONTEXT` tokens and return the seconds of each of the steps."""

    def prefill(self, tokens: int, timed: Callable[[Callable[[], object]], float]) -> float:
        """Return the seconds of computing a prompt of `tokens` tokens up to its next token."""


def prompt(tokens: int, salt: int) -> list[int]:
    """Return token ids that no earlier prompt began with: prefix caches do not help."""
    return [FIRST_TOKEN + (salt * 7919 + index * 104729) % (LAST_TOKEN - FIRST_TOKEN) for index in range(tokens)]


def serve(load: Callable[[], Engine]) -> None:
    """Load the engine and answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    started = time.perf_counter()
    engine = load()
    _say(answers, {"loaded": time.perf_counter() - started, "resident": _resident()})
    for line in sys.stdin:
        request = json.loads(line)
        timed = _exclusively if request["exclusive"] else _timed
        if request["measure"] == "decode":
            _say(answers, {"seconds": engine.decode(request["streams"], request["steps"], timed)})
        else:
            _say(answers, {"seconds": [engine.prefill(request["tokens"], timed)]})


def _say(answers: Any, answer: dict[str, object]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _exclusively(work: Callable[[], object]) -> float:
    """Time the work with every thread of this process at real-time priority: other jobs of the machine wait."""
    threads = [int(path.name) for path in Path("/proc/self/task").iterdir()]
    for thread in threads:
        with suppress(ProcessLookupError):
            os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(10))
    try:
        return _timed(work)
    finally:
        for thread in threads:
            with suppress(ProcessLookupError):
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def _resident() -> int:
    """Return the resident memory of this process, bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
