"""A fault in one request's part of a step ends that request; every other one gets the answer that it gets alone.

The culprits are requests that the server's own checks refuse, given to the engine directly: what a request may contain
is another module's promise, and the engine must not depend on it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llm_runtime.llm_requests import GREEDY
from models.model_files import GGUFModel

from headrace.serving.engine import Delta, FinishReason, GenerationRequest, Sampling, StopConditions
from headrace.serving.errors import EngineDied, RequestFailed
from headrace_llm.engine import LLMEngine
from headrace_models.decoder import Batch, Floats
from headrace_models.model_file import ModelFile

SLOTS = 4
LENGTH = 600
"""Tokens of an answer: steps enough for many a request to come and fail meanwhile."""
WELL = [
    GenerationRequest((1,), GREEDY, StopConditions(LENGTH, ignore_eos=True)),
    GenerationRequest((1,), Sampling(temperature=0.9, seed=3), StopConditions(LENGTH, ignore_eos=True)),
    GenerationRequest((1,), GREEDY, StopConditions(LENGTH, strings=("nothing like this",), ignore_eos=True)),
]
PROMPTS = ["The capital of France is", "Once upon a time", "One, two, three,"]
VALUE: Any = 2.5
CULPRITS = {
    "prompt": replace(WELL[0], prompt_tokens=(1, VALUE, 2)),
    "sampler": GenerationRequest((1, 2), Sampling(top_k=-5), StopConditions(4)),
    "temperature": GenerationRequest((1, 2), Sampling(temperature=math.nan), StopConditions(4)),
    "stop": GenerationRequest((1, 2), GREEDY, StopConditions(4, strings=(VALUE,))),
}


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[LLMEngine]:
    file = ModelFile.open(GGUFModel({"llama.context_length": 1024}).write(tmp_path / "model.gguf"))
    loaded = LLMEngine.load_model(file, max_model_len=1024, max_concurrent=SLOTS, threads=1, progress=lambda *_: None)
    yield loaded
    await loaded.close()


async def answer(engine: LLMEngine, request: GenerationRequest) -> list[Delta]:
    return [delta async for delta in engine.generate(request)]


def requests(engine: LLMEngine) -> list[GenerationRequest]:
    pairs = zip(PROMPTS, WELL, strict=True)
    return [replace(request, prompt_tokens=tuple(engine.encode(text))) for text, request in pairs]


async def well(engine: LLMEngine) -> list[list[Delta]]:
    """Return the answers to three requests at once."""
    return await asyncio.gather(*(answer(engine, request) for request in requests(engine)))


@pytest.mark.parametrize("culprit", CULPRITS)
async def test_request_when_its_part_fails_then_it_alone_ends(engine: LLMEngine, culprit: str) -> None:
    alone = [await answer(engine, request) for request in requests(engine)]
    streams = asyncio.create_task(well(engine))
    while engine.load().running < len(PROMPTS):
        await asyncio.sleep(0)
    for _ in range(3):
        with pytest.raises(RequestFailed) as raised:
            await answer(engine, CULPRITS[culprit])
        assert raised.value.http_status == 500
    assert not streams.done()
    assert await streams == alone
    assert engine.healthy
    assert (engine.load().running, engine.load().queued) == (0, 0)


@pytest.mark.parametrize("culprit", CULPRITS)
async def test_engine_when_the_only_requests_fail_then_it_goes_on(engine: LLMEngine, culprit: str) -> None:
    failing = (answer(engine, CULPRITS[culprit]) for _ in range(SLOTS + 1))
    results = await asyncio.gather(*failing, return_exceptions=True)
    assert [type(result) for result in results] == [RequestFailed] * (SLOTS + 1)
    deltas = await answer(engine, WELL[0])
    assert deltas[-1].finish_reason is FinishReason.LENGTH
    assert (engine.load().running, engine.load().queued) == (0, 0)


async def test_step_when_the_batch_fails_then_each_is_computed_alone(
    engine: LLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that a batch needs and its parts do not: nobody is at fault, and nobody's answer ends."""
    alone = [await answer(engine, request) for request in requests(engine)]
    step = engine._decoder.step

    def only_small(batch: Batch) -> Floats:
        if len(batch.segments) > 1:
            raise MemoryError("no memory for so many")
        return step(batch)

    monkeypatch.setattr(engine._decoder, "step", only_small)
    assert await well(engine) == alone


async def test_engine_when_it_fails_without_any_request_then_it_ends(
    engine: LLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("no memory left")

    monkeypatch.setattr(engine._decoder, "step", fail)
    results = await asyncio.gather(*(answer(engine, WELL[0]) for _ in range(2)), return_exceptions=True)
    assert [str(result) for result in results] == ["the engine died: MemoryError: no memory left"] * 2
    assert not engine.healthy
    with pytest.raises(EngineDied):
        await answer(engine, WELL[0])
