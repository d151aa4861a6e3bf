"""Embeddings are the pooled hidden states of transformers, whatever the batch and however a prompt is cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llm_runtime.llm_reference import reference_model
from llm_runtime.llm_requests import generate
from models.family_models import FAMILY_MODELS
from models.model_files import GGUFModel

from headrace.errors import InvalidModel
from headrace.serving.engine import StopConditions
from headrace.serving.errors import ContextLengthExceeded, InvalidRequest, Saturated
from headrace_llm.engine import LLMEngine
from headrace_llm.loading import DType
from headrace_llm.options import EngineOptions
from headrace_models.config import Pooling
from headrace_models.model_file import ModelFile

MODEL_LEN = 128
TEXTS = ("The capital of France", "a", "Once upon a time there was a mill. " * 8, "Ünïcödé 🙂")


@asynccontextmanager
async def loaded(path: Path, slots: int = 4, **options: Any) -> AsyncIterator[LLMEngine]:
    engine = LLMEngine.load_model(
        ModelFile.open(path),
        max_model_len=MODEL_LEN,
        max_concurrent=slots,
        threads=2,
        progress=lambda *_: None,
        options=EngineOptions(**options),
    )
    try:
        yield engine
    finally:
        await engine.close()


def prompts(engine: LLMEngine) -> list[tuple[int, ...]]:
    return [tuple(engine.encode(text)) for text in TEXTS]


async def test_embedding_in_float32_then_that_of_transformers(smollm2_path: Path) -> None:
    """Beside running answers, and in chunks of 8 tokens."""
    reference = reference_model(smollm2_path)
    async with loaded(smollm2_path, dtype=DType.FLOAT32, token_budget=8) as engine:
        stop = StopConditions(max_tokens=40, ignore_eos=True)
        answer = generate(engine, engine.encode("Once"), stop)
        await anext(answer)
        vectors = await engine.embed(prompts(engine))
        left = [delta async for delta in answer]
        assert len(left) > 20, "the answer did not run beside the embeddings"
        texts = prompts(engine)
    for tokens, vector in zip(texts, vectors, strict=True):
        with torch.inference_mode():
            hidden = reference.model(torch.tensor([tokens])).last_hidden_state[0]
        mean = hidden.mean(dim=0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-4)
        assert vector.typecode == "f"


async def test_embeddings_when_many_then_as_alone(smollm2_path: Path) -> None:
    async with loaded(smollm2_path, token_budget=32) as engine:
        alone = [(await engine.embed([prompt]))[0] for prompt in prompts(engine)]
        steps = engine.counters.steps
        many = await engine.embed(prompts(engine) * 5)
        assert many == alone * 5
        assert engine.counters.steps - steps < 20 * 3, "the prompts did not share steps"
        assert (engine.load().queued, engine.load().kv_tokens_used) == (0, 0)


async def test_embedding_when_preempted_then_the_same(smollm2_path: Path) -> None:
    """Five blocks of 32, two tokens of the prompt per step: the answer needs a third block before its last chunk."""
    options = {"kv_tokens": 160, "token_budget": 3, "speculation": False}
    async with loaded(smollm2_path, slots=2, **options) as engine:
        prompt = tuple(engine.encode(TEXTS[2] * 2))[:96]
        expected = await engine.embed([prompt])
        answer = generate(engine, [7] * 30, StopConditions(max_tokens=80, ignore_eos=True))
        await anext(answer)
        embedded = asyncio.ensure_future(engine.embed([prompt]))
        assert len([delta async for delta in answer]) == 79
        assert await embedded == expected
        assert engine.counters.preemptions == 1


async def test_embedding_when_cancelled_then_nothing_is_left(smollm2_path: Path) -> None:
    async with loaded(smollm2_path, token_budget=5) as engine:
        task = asyncio.ensure_future(engine.embed([tuple(engine.encode(TEXTS[2]))] * 50))
        while not engine.counters.steps:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await engine.embed([(5,)])
        assert (engine.load().queued, engine.load().kv_tokens_used) == (0, 0)
        assert engine.counters.cancelled == 4


@pytest.mark.parametrize(
    ("prompt", "error"),
    [((), InvalidRequest), ((-1,), InvalidRequest), ((49152,), InvalidRequest), ((1,) * 129, ContextLengthExceeded)],
)
async def test_prompt_when_invalid_then_refused(
    smollm2_path: Path, prompt: tuple[int, ...], error: type[Exception]
) -> None:
    async with loaded(smollm2_path) as engine:
        with pytest.raises(error):
            await engine.embed([(1, 2), prompt])
        (vector,) = await engine.embed([(1,) * MODEL_LEN])
        assert np.linalg.norm(vector) == pytest.approx(1)


async def test_embedding_when_the_queue_is_full_then_refused(smollm2_path: Path) -> None:
    async with loaded(smollm2_path, slots=1) as engine:
        tasks = [asyncio.ensure_future(engine.embed([(1, 2, 3)])) for _ in range(engine.capacity + 1)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in results] == [list] * engine.capacity + [Saturated]


@pytest.mark.parametrize(("kind", "pooling"), [(None, Pooling.MEAN), (1, Pooling.MEAN), (3, Pooling.LAST)])
async def test_pooling_when_in_the_file_then_used(tmp_path: Path, kind: int | None, pooling: Pooling) -> None:
    model = FAMILY_MODELS["llama"].make()
    tokens = (5, 1, 17, 3)
    with torch.inference_mode():
        hidden = model.model(torch.tensor([tokens])).last_hidden_state[0].numpy()
    expected = hidden.mean(axis=0) if pooling is Pooling.MEAN else hidden[-1]
    family = replace(FAMILY_MODELS["llama"], header={} if kind is None else {"pooling_type": kind})
    file = family.write_gguf(model, tmp_path / "model.gguf")
    assert ModelFile.open(file).config.pooling is pooling
    async with loaded(file) as engine:
        (vector,) = await engine.embed([tokens])
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-4)


def test_pooling_when_of_another_kind_then_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"llama.pooling_type = 2"):
        ModelFile.open(GGUFModel({"llama.pooling_type": 2}).write(tmp_path / "model.gguf"))
