"""What the engine refuses, and what its callers are told when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from llm_runtime.llm_requests import generate
from models.model_files import TOKENS, X_END, Y_END, GGUFModel, answering

from headrace.events.messages import UNCOMPUTED_TOKENS
from headrace.serving.engine import Delta, FinishReason, StopConditions
from headrace.serving.errors import ContextLengthExceeded, EngineDied, InvalidRequest, Saturated
from headrace_llm.engine import QUEUE_PER_SLOT, LLMEngine
from headrace_models.model_file import ModelFile
from headrace_models.native.library import isa

MODEL_LEN = 64
LONG = StopConditions(max_tokens=20, ignore_eos=True)
SHORT = StopConditions(max_tokens=2, ignore_eos=True)


@pytest.fixture
async def engine(smollm2_path: Path) -> AsyncIterator[LLMEngine]:
    loaded = LLMEngine.load_model(
        ModelFile.open(smollm2_path), max_model_len=MODEL_LEN, max_concurrent=1, threads=2, progress=lambda *_: None
    )
    yield loaded
    await loaded.close()


async def answer(engine: LLMEngine, prompt: list[int], stop: StopConditions) -> list[Delta]:
    return [delta async for delta in generate(engine, prompt, stop)]


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ([], InvalidRequest),
        ([-1], InvalidRequest),
        ([49152], InvalidRequest),
        ([1] * MODEL_LEN, ContextLengthExceeded),
    ],
)
async def test_prompt_when_invalid_then_refused_without_capacity(
    engine: LLMEngine, prompt: list[int], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await answer(engine, prompt, SHORT)
    assert engine.load().queued == 0
    assert len(await answer(engine, [1], SHORT)) == 2


async def test_answer_when_the_model_is_full_then_it_ends_by_length(engine: LLMEngine) -> None:
    deltas = await answer(engine, [1] * (MODEL_LEN - 3), StopConditions(max_tokens=MODEL_LEN, ignore_eos=True))
    assert len(deltas) == 3
    assert deltas[-1].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("metadata", "stop", "finish", "length"),
    [
        ({"tokenizer.ggml.eot_token_id": X_END}, StopConditions(max_tokens=9), FinishReason.STOP, 1),
        ({"tokenizer.ggml.eom_token_id": X_END}, StopConditions(max_tokens=9), FinishReason.STOP, 1),
        ({"tokenizer.ggml.eos_token_id": X_END}, StopConditions(max_tokens=9), FinishReason.STOP, 1),
        ({"tokenizer.ggml.eos_token_id": None}, StopConditions(max_tokens=9), FinishReason.LENGTH, 9),
        ({}, StopConditions(max_tokens=9), FinishReason.LENGTH, 9),
        ({}, StopConditions(max_tokens=9, strings=(TOKENS[X_END],)), FinishReason.STOP, 1),
        ({}, StopConditions(max_tokens=9, strings=(TOKENS[X_END] * 3,)), FinishReason.STOP, 3),
        ({}, StopConditions(max_tokens=9, token_ids=frozenset({X_END})), FinishReason.STOP, 1),
        ({}, StopConditions(max_tokens=9, token_ids=frozenset({Y_END})), FinishReason.LENGTH, 9),
    ],
)
async def test_answer_when_the_model_ends_its_turn_then_it_ends(
    tmp_path: Path, metadata: dict[str, Any], stop: StopConditions, finish: FinishReason, length: int
) -> None:
    """The model says nothing but one special token, which is an end by the file, by the request, or not at all."""
    file = ModelFile.open(GGUFModel(metadata, answering(X_END)).write(tmp_path / "model.gguf"))
    loaded = LLMEngine.load_model(file, max_model_len=64, max_concurrent=1, threads=1, progress=lambda *_: None)
    deltas = await answer(loaded, [1], stop)
    assert deltas[-1].finish_reason is finish
    assert [token for delta in deltas for token in delta.token_ids] == [X_END] * length
    assert "".join(delta.text for delta in deltas) == ""
    await loaded.close()


async def test_request_when_the_queue_is_full_then_only_it_is_refused(engine: LLMEngine) -> None:
    assert engine.capacity == 1 + QUEUE_PER_SLOT
    tasks = [asyncio.create_task(answer(engine, [1], LONG)) for _ in range(engine.capacity)]
    await asyncio.sleep(0)  # each task has been started once, and so has asked
    with pytest.raises(Saturated):
        await answer(engine, [1], SHORT)
    answers = await asyncio.gather(*tasks)
    assert {len(deltas) for deltas in answers} == {LONG.max_tokens}
    assert len(await answer(engine, [1], SHORT)) == 2


async def test_request_when_cancelled_in_the_queue_then_the_next_runs(engine: LLMEngine) -> None:
    running = generate(engine, [1], LONG)
    await anext(running)
    waiting = asyncio.create_task(answer(engine, [1], LONG))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len([delta async for delta in running]) == LONG.max_tokens - 1
    assert len(await answer(engine, [1], SHORT)) == 2
    assert engine.counters.cancelled == 1
    assert (engine.load().running, engine.load().queued) == (0, 0)


async def test_engine_when_a_step_fails_then_all_requests_fail(
    engine: LLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("no memory left")

    running = generate(engine, [1], LONG)
    await anext(running)
    waiting = asyncio.create_task(answer(engine, [1], LONG))
    await asyncio.sleep(0)
    monkeypatch.setattr(engine._decoder, "step", fail)
    with pytest.raises(EngineDied, match="no memory left"):
        await asyncio.wait_for(waiting, timeout=30)
    with pytest.raises(EngineDied, match="no memory left"):
        [delta async for delta in running]
    assert not engine.healthy
    with pytest.raises(EngineDied):
        await answer(engine, [1], SHORT)


async def test_engine_when_closed_then_running_requests_fail(engine: LLMEngine) -> None:
    running = generate(engine, [1], LONG)
    await anext(running)
    await engine.close()
    with pytest.raises(EngineDied):
        [delta async for delta in running]


async def test_load_when_a_request_runs_then_it_has_its_cache(engine: LLMEngine) -> None:
    running = generate(engine, [1, 2, 3], LONG)
    await anext(running)
    load = engine.load()
    assert (load.running, load.queued) == (1, 0)
    assert 3 <= load.kv_tokens_used <= load.kv_tokens_total == MODEL_LEN
    await running.aclose()


async def test_metrics_when_loaded_then_name_the_kernels(engine: LLMEngine) -> None:
    (_, metric) = engine.metrics("m")
    (sample,) = metric.samples
    assert (sample.name, sample.value) == ("headrace_llm_kernels", 1.0)
    assert sample.labels == {"model_name": "m", "kernels": isa()}


async def test_load_when_a_prompt_waits_then_its_tokens_are_reported(engine: LLMEngine) -> None:
    """The only slot is taken, so the second prompt is not computed until the first answer ends."""
    running = generate(engine, [1], LONG)
    await anext(running)
    waiting = asyncio.create_task(answer(engine, [1] * 9, SHORT))
    await asyncio.sleep(0)
    (metric, _) = engine.metrics("m")
    assert 9 <= engine.load().extra[UNCOMPUTED_TOKENS] <= 10
    assert 9 <= metric.samples[0].value <= 10
    assert (metric.samples[0].name, metric.samples[0].labels) == ("headrace_llm_uncomputed_tokens", {"model_name": "m"})
    await running.aclose()
    await waiting
    assert engine.load().extra == {UNCOMPUTED_TOKENS: 0}
