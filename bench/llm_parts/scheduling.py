"""The engine in this process: stalls by a long prompt, work that the prefix cache saves, and the cost of planning."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import uvloop
from bars import Bar, spread
from llm_parts.setting import THREADS, Setting

from headrace.serving.engine import GenerationRequest, Sampling, StopConditions
from headrace_llm.engine import LLMEngine
from headrace_llm.loading import load_decoder
from headrace_llm.options import EngineOptions
from headrace_llm.scheduler.core import Policy, Step
from headrace_models.model_file import ModelFile
from headrace_models.tokenizer import ModelTokenizer

LONG_PROMPT = 4000
MODEL_LEN = 4608
STREAMS = 8
STREAM_TOKENS = 192
BEFORE_ARRIVAL = 32
"""Tokens of each stream before the long prompt arrives."""
SHARED_TOKENS, OWN_TOKENS, SHARING = 1000, 24, 16
"""Tokens of the common prefix, further ones of each prompt, and requests."""
GREEDY = Sampling(temperature=0)


@dataclass(slots=True)
class TimedPolicy:
    """A policy, and how long it planned."""

    policy: Policy
    seconds: float = 0.0

    def __call__(self, step: Step) -> None:
        """Plan a step."""
        started = time.perf_counter()
        self.policy(step)
        self.seconds += time.perf_counter() - started


@dataclass(slots=True)
class Stall:
    """What the streams of one policy see."""

    gaps: list[float] = field(default_factory=list)
    """The worst one of each repeat, seconds."""
    rates: list[float] = field(default_factory=list)
    """Tokens of prompts and answers per second."""


def measure(setting: Setting) -> list[Bar]:
    """Return the bars."""
    return uvloop.run(_measure(setting))


async def _measure(setting: Setting) -> list[Bar]:
    return [*await _stalls(setting), await _prefix(setting), await _planning(setting)]


@asynccontextmanager
async def _engine(setting: Setting, options: EngineOptions, *, running: int) -> AsyncIterator[LLMEngine]:
    made = LLMEngine.load_model(
        ModelFile.open(setting.file),
        max_model_len=MODEL_LEN,
        max_concurrent=running,
        threads=THREADS,
        progress=lambda *_: None,
        options=options,
    )
    try:
        yield made
    finally:
        await made.close()


def _request(tokens: list[int], length: int) -> GenerationRequest:
    return GenerationRequest(tuple(tokens), GREEDY, StopConditions(max_tokens=length, ignore_eos=True))


def _tokens(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(1000, 40000), k=count)


async def _stalls(setting: Setting) -> list[Bar]:
    """Alternate the policies; the first repeat warms up."""
    stalls = {"sarathi": Stall(), "prefill-first": Stall()}
    for repeat in range(setting.repeats + 1):
        for policy, stall in stalls.items():
            options = EngineOptions(policy=policy, prefix_cache=False, speculation=False)
            async with _engine(setting, options, running=STREAMS + 1) as engine:
                await _stall(engine, stall if repeat else Stall())
    for policy, stall in stalls.items():
        spread(f"worst gap {policy}", [gap * 1000 for gap in stall.gaps], "ms")
        spread(f"throughput {policy}", stall.rates, "tok/s")
    ours, baseline = stalls["sarathi"], stalls["prefill-first"]
    return [
        Bar("stall-of-prefill-first", min(ours.gaps) / min(baseline.gaps), 0.3, "x"),
        Bar("stall-throughput", max(ours.rates) / max(baseline.rates), 0.95, "x", at_least=True),
    ]


async def _stall(engine: LLMEngine, stall: Stall) -> None:
    """Run the streams, and a long prompt beside them."""
    times: list[list[float]] = [[] for _ in range(STREAMS)]
    begun = asyncio.Event()

    async def stream(index: int) -> None:
        async for _ in engine.generate(_request(_tokens(32, index), STREAM_TOKENS)):
            times[index].append(time.perf_counter())
            if min(map(len, times)) == BEFORE_ARRIVAL:
                begun.set()

    async def arrive() -> tuple[float, float]:
        await begun.wait()
        arrived = time.perf_counter()
        async for _ in engine.generate(_request(_tokens(LONG_PROMPT, -1), 1)):
            pass
        return arrived, time.perf_counter()

    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        long = tasks.create_task(arrive())
        for index in range(STREAMS):
            tasks.create_task(stream(index))
    arrived, answered = long.result()
    seconds = time.perf_counter() - started
    overlapping = [
        after - before for each in times for before, after in pairwise(each) if after > arrived and before < answered
    ]
    stall.gaps.append(max(overlapping))
    stall.rates.append((LONG_PROMPT + STREAMS * (32 + STREAM_TOKENS)) / seconds)


async def _prefix(setting: Setting) -> Bar:
    """Count the tokens computed for prompts with a common prefix, with and without the cache."""
    computed = {}
    for cached in (False, True):
        options = EngineOptions(prefix_cache=cached, speculation=False)
        async with _engine(setting, options, running=SHARING) as engine:
            shared = _tokens(SHARED_TOKENS, 0)

            async def send(index: int, engine: LLMEngine = engine, shared: list[int] = shared) -> None:
                async for _ in engine.generate(_request(shared + _tokens(OWN_TOKENS, index + 1), 2)):
                    pass

            await asyncio.gather(*(send(index) for index in range(SHARING)))
            # Of two generated tokens one was computed again for the other.
            computed[cached] = engine.counters.step_tokens - SHARING
    print(f"prefill of {SHARING} prompts: {computed[False]} tokens, with the prefix cache {computed[True]}", flush=True)
    return Bar("prefix-cache-saves", computed[False] / computed[True], 5, "x", at_least=True)


async def _planning(setting: Setting) -> Bar:
    """Measure which share of a decode's time is planning; the reason why steps are not planned ahead."""
    scheduler = EngineOptions(speculation=False).scheduler(model_len=MODEL_LEN, max_running=16)
    scheduler.policy = timed = TimedPolicy(scheduler.policy)
    file = ModelFile.open(setting.file)
    options = EngineOptions()
    decoder = load_decoder(file, dtype=options.dtype, threads=THREADS, progress=lambda *_: None)
    decoder.allocate_cache(scheduler.cache.blocks, scheduler.cache.block_tokens)
    engine = LLMEngine(decoder, ModelTokenizer(file), scheduler, model_len=MODEL_LEN, speculation=False)
    shares = []

    async def stream(index: int) -> None:
        async for _ in engine.generate(_request(_tokens(32, index), 96)):
            pass

    try:
        for streams in (1, 8, 16):
            timed.seconds, started = 0.0, time.perf_counter()
            await asyncio.gather(*(stream(index) for index in range(streams)))
            shares.append(timed.seconds / (time.perf_counter() - started))
            print(f"planning with {streams} streams: {shares[-1]:.2%} of the time", flush=True)
    finally:
        await engine.close()
    return Bar("planning-share", max(shares), 0.03, "")
