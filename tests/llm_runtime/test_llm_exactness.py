"""Greedy tokens are those of transformers on the same weights, whatever the batch and however a prompt is cut."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_runtime.llm_reference import PROMPTS, reference_model
from llm_runtime.llm_requests import GREEDY, generate
from llm_runtime.make_greedy_reference import NEW_TOKENS as REFERENCE_TOKENS
from llm_runtime.make_greedy_reference import REFERENCE

from headrace.serving.engine import FinishReason, Sampling, StopConditions
from headrace_llm.engine import LLMEngine
from headrace_llm.loading import DType
from headrace_llm.options import EngineOptions
from headrace_models.decoder import Batch, Segment
from headrace_models.model_file import ModelFile
from headrace_models.torch_decoder import TorchDecoder

NEW_TOKENS = 24
BATCH = 16
ALL = StopConditions(max_tokens=NEW_TOKENS, ignore_eos=True)


def load(path: Path, slots: int = 8, model_len: int = 512, options: EngineOptions | None = None) -> LLMEngine:
    return LLMEngine.load_model(
        ModelFile.open(path),
        max_model_len=model_len,
        max_concurrent=slots,
        threads=2,
        progress=lambda *_: None,
        options=options,
    )


@pytest.fixture
async def engine(smollm2_path: Path) -> AsyncIterator[LLMEngine]:
    loaded = load(smollm2_path, slots=16, model_len=2048, options=EngineOptions(dtype=DType.FLOAT32))
    yield loaded
    await loaded.close()


@pytest.fixture(scope="module")
def reference(smollm2_path: Path) -> Any:
    return reference_model(smollm2_path)


async def tokens_of(
    engine: LLMEngine, prompt: list[int], stop: StopConditions = ALL, sampling: Sampling = GREEDY
) -> list[int]:
    return [token async for delta in generate(engine, prompt, stop, sampling) for token in delta.token_ids]


def likeliest(reference: Any, texts: list[list[int]]) -> list[list[int]]:
    """Return after each token of each text the one that the reference finds most likely.

    Texts of about one length share a step: alone each costs twice as much. What pads the shorter ones comes after
    their last token, and no token attends to a later one.
    """
    torch.set_num_threads(1)  # two would wait awake for each other while other tests have the cores
    found: list[list[int]] = [[] for _ in texts]
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for first in range(0, len(order), BATCH):
        batch = order[first : first + BATCH]
        longest = len(texts[batch[-1]])
        padded = torch.tensor([texts[index] + [0] * (longest - len(texts[index])) for index in batch])
        with torch.inference_mode():
            tokens = reference(padded).logits.argmax(dim=-1)
        for index, row in zip(batch, tokens.tolist(), strict=True):
            found[index] = row[: len(texts[index])]
    return found


async def test_greedy_tokens_then_those_of_transformers(engine: LLMEngine) -> None:
    """More than 200 prompts, some of a thousand tokens, in one batch, against answers that were computed one by one."""
    answers = json.loads(REFERENCE.read_text())["answers"]
    assert len(answers) >= 200
    prompts = [engine.encode(answer["prompt"]) for answer in answers]
    assert max(map(len, prompts)) > 1000
    stop = StopConditions(max_tokens=REFERENCE_TOKENS, ignore_eos=True)
    ours: list[list[int]] = []
    for first in range(0, len(prompts), 64):  # the engine's queue is bounded
        ours += await asyncio.gather(*(tokens_of(engine, prompt, stop) for prompt in prompts[first : first + 64]))
    assert engine.counters.step_tokens > engine.counters.steps * 10, "the requests did not share steps"
    different = [
        (answer["prompt"], answer["answer"], tokens)
        for answer, tokens in zip(answers, ours, strict=True)
        if tokens != answer["answer"]
    ]
    assert different == []


async def test_greedy_tokens_when_computed_now_then_transformers(engine: LLMEngine, reference: Any) -> None:
    """Each of our tokens is the reference's most likely one after everything before it: so its greedy run is ours."""
    order = random.Random(0).sample(PROMPTS, BATCH)
    prompts = [engine.encode(prompt) for prompt in order]
    answers = await asyncio.gather(*(tokens_of(engine, prompt) for prompt in prompts))
    wanted = likeliest(reference, [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)])
    different = [
        (text, expected, answer)
        for text, prompt, answer, tokens in zip(order, prompts, answers, wanted, strict=True)
        if (expected := tokens[len(prompt) - 1 : -1]) != answer
    ]
    assert different == []


async def test_greedy_tokens_when_prefill_is_chunked_then_the_same(
    smollm2_path: Path,
) -> None:
    whole = load(smollm2_path)
    prompt = whole.encode("To be, or not to be, that is the question. " * 12)
    chunked = load(smollm2_path, slots=4, options=EngineOptions(policy="splitfuse", token_budget=7))
    try:
        assert await tokens_of(whole, prompt) == await tokens_of(chunked, prompt)
        assert chunked.counters.steps > len(prompt) // 7
    finally:
        await whole.close()
        await chunked.close()


def test_logits_in_one_step_then_close_to_the_reference(smollm2_path: Path, reference: Any) -> None:
    decoder = TorchDecoder(ModelFile.open(smollm2_path).weights, threads=1, progress=lambda _: None)
    decoder.allocate_cache(4, 16)
    tokens = list(range(1000, 1040))
    ours = torch.from_numpy(decoder.step(Batch(tokens, [Segment((2, 0, 3), 0, len(tokens))], range(len(tokens)))))
    with torch.inference_mode():
        theirs = reference(torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)


async def test_seeded_answer_when_the_batch_is_full_then_the_same(engine: LLMEngine) -> None:
    prompt = engine.encode("Once upon a time")
    seeded = Sampling(temperature=0.8, top_p=0.9, seed=7)
    alone = await tokens_of(engine, prompt, ALL, seeded)
    crowd = [tokens_of(engine, engine.encode(text), StopConditions(16), Sampling()) for text in PROMPTS[:6]]
    crowded, *_ = await asyncio.gather(tokens_of(engine, prompt, ALL, seeded), *crowd)
    assert alone == crowded


async def test_stop_string_when_it_spans_tokens_then_none_is_sent(engine: LLMEngine) -> None:
    prompt = engine.encode("Count: one, two, three,")
    whole = "".join([d.text async for d in generate(engine, prompt, ALL)])
    stop = whole[5:11]
    stopped = replace(ALL, strings=(stop,))
    deltas = [delta async for delta in generate(engine, prompt, stopped)]
    assert "".join(delta.text for delta in deltas) == whole[: whole.find(stop)]
    assert deltas[-1].finish_reason is FinishReason.STOP


async def test_request_when_its_client_leaves_then_its_slot_is_free(smollm2_path: Path) -> None:
    engine = load(smollm2_path, slots=1)
    try:
        answer = generate(engine, engine.encode("Once"), StopConditions(max_tokens=400, ignore_eos=True))
        await anext(answer)
        await answer.aclose()
        after = await asyncio.wait_for(tokens_of(engine, engine.encode("Twice")), timeout=30)
        assert len(after) == NEW_TOKENS
        assert engine.counters.cancelled == 1
        assert engine.counters.generated_tokens < 100
    finally:
        await engine.close()
