"""The decoder beside llama.cpp, vLLM and transformers: same model, cores and threads, alternated in one run.

llama.cpp and headrace read the file as shipped (Q4_1), vLLM and transformers its weights in bfloat16.
"""

from __future__ import annotations

import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bars import Bar, spread
from engines import limits
from engines.contender import WORKERS, Contender
from engines.limits import Limits
from engines.venvs import LLAMA_CPP, VLLM, python_of
from llm_parts.setting import THREADS, Setting

STREAMS = (1, 8, 16)
STEPS = 32
PROMPT = 512
OURS, LLAMA, COMPILED, REFERENCE = "headrace", "llama.cpp", "vLLM", "transformers"
GIGA = 1e9


@dataclass(slots=True)
class Rates:
    """Tokens per second of one contender by number of streams (0: prefill): of each step, or of each prompt."""

    best: dict[int, float] = field(default_factory=dict)
    middle: dict[int, float] = field(default_factory=dict)

    def set(self, streams: int, tokens: int, seconds: list[float]) -> None:
        """Set the rates from the seconds in which `tokens` tokens were computed each."""
        self.best[streams], self.middle[streams] = tokens / min(seconds), tokens / statistics.median(seconds)


def measure(setting: Setting) -> list[Bar]:
    """Return the bars of decode and prefill."""
    measured = limits.measure(THREADS)
    _print_limits(measured, setting.file)
    with ExitStack() as stack:
        contenders = [stack.enter_context(each) for each in _contenders(setting)]
        for each in contenders:
            print(
                f"{each.name}: loaded in {each.load_seconds:.2f} s, {each.resident / 1e6:.0f} MB resident", flush=True
            )
        rates = _measure(contenders, repeats=setting.repeats, exclusive=setting.exclusive)
    return _bars(rates, measured, setting.file)


def _contenders(setting: Setting) -> list[Contender]:
    file, directory = setting.file, setting.directory
    return [
        Contender(OURS, [sys.executable, WORKERS / "run_headrace.py", file, str(THREADS)]),
        Contender(LLAMA, [python_of(LLAMA_CPP), WORKERS / "run_llama_cpp.py", file, str(THREADS)]),
        Contender(COMPILED, [python_of(VLLM), WORKERS / "run_vllm.py", directory, str(THREADS)]),
        Contender(REFERENCE, [sys.executable, WORKERS / "run_transformers.py", directory, str(THREADS)]),
    ]


def _measure(contenders: list[Contender], *, repeats: int, exclusive: bool) -> dict[str, Rates]:
    """Alternate the contenders; the first repeat warms up."""
    rates = {each.name: Rates() for each in contenders}
    for streams in STREAMS:
        seconds: dict[str, list[float]] = {each.name: [] for each in contenders}
        for repeat in range(repeats + 1):
            for each in contenders:
                taken = each.decode(streams, steps=STEPS, exclusive=exclusive)
                seconds[each.name] += taken if repeat else []
        for name, values in seconds.items():
            spread(f"decode {streams} {name}", [value * 1000 for value in values], "ms")
            rates[name].set(streams, streams, values)
    prompts: dict[str, list[float]] = {each.name: [] for each in contenders}
    for repeat in range(repeats + 1):
        for each in contenders:
            second = each.prefill(PROMPT, exclusive=exclusive)
            prompts[each.name] += [second] if repeat else []
    for name, values in prompts.items():
        spread(f"prefill {PROMPT} {name}", [value * 1000 for value in values], "ms")
        rates[name].set(0, PROMPT, values)
    return rates


def _print_limits(measured: Limits, file: Path) -> None:
    print(
        f"limits: {measured.bytes_per_second / GIGA:.1f} GB/s of memory, {measured.float_operations / GIGA:.0f} GFLOP/s"
        f" float32, {measured.int8_operations / GIGA:.0f} GOP/s int8, {THREADS} threads;"
        f" decode of 1 stream <= {_bandwidth_limit(measured, file):.0f} tok/s",
        flush=True,
    )


def _bandwidth_limit(measured: Limits, file: Path) -> float:
    """Return the tokens per second at which the file's weights are read once per token."""
    return measured.bytes_per_second / file.stat().st_size


def _bars(rates: dict[str, Rates], measured: Limits, file: Path) -> list[Bar]:
    for name, each in rates.items():
        row = ", ".join(
            f"{streams or 'prefill'}: {each.best[streams]:.0f} ({each.middle[streams]:.0f})" for streams in each.best
        )
        print(f"tok/s best (p50) {name}: {row}")
    ours = rates[OURS]
    goals = {
        "decode-1-over-llama-cpp": (1, LLAMA, 1.0),
        "decode-1-over-vllm": (1, COMPILED, 2.0),
        "decode-1-over-transformers": (1, REFERENCE, 5.0),
        "decode-8-over-llama-cpp": (8, LLAMA, 2.0),
        "decode-8-over-vllm": (8, COMPILED, 1.0),
        "decode-16-over-llama-cpp": (16, LLAMA, 2.0),
        "decode-16-over-vllm": (16, COMPILED, 1.0),
        "prefill-over-llama-cpp": (0, LLAMA, 3.0),
        "prefill-over-vllm": (0, COMPILED, 1.0),
    }
    bars = [
        Bar(name, ours.middle[streams] / rates[peer].middle[streams], goal, "x", at_least=True)
        for name, (streams, peer, goal) in goals.items()
    ]
    limit = ours.best[1] / _bandwidth_limit(measured, file)
    return [*bars, Bar("decode-1-of-bandwidth-limit", limit, 0.5, "x", at_least=True)]
