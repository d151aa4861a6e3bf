"""What makes the engine faster changes no token: each technique is compared with a plain run, greedy and seeded.

The plain engine computes one request at a time, its prompt in one chunk, without prefix cache and speculation. Each
test also verifies by a counter that its technique acted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from llm_runtime.llm_requests import GREEDY

from headrace.serving.engine import Delta, GenerationRequest, Sampling, StopConditions
from headrace_llm.engine import LLMEngine
from headrace_llm.options import EngineOptions, KVLayout
from headrace_llm.scheduler.policies import POLICIES
from headrace_models.model_file import ModelFile

PLAIN = EngineOptions(prefix_cache=False, speculation=False, token_budget=1024)
SEEDED = Sampling(temperature=0.8, top_p=0.95, seed=11, presence_penalty=0.2)
LENGTH = 32
MODEL_LEN = 512
SHARED = "You are a helpful assistant who answers briefly and never repeats a question. " * 8
CODE = "def add(a, b):\n    return a + b\n\ndef sub(a, b):\n    return a - b\n\ndef mul(a, b):\n" * 3
TEXTS = (
    SHARED + "What is the capital of France?",
    SHARED + "Name three colours.",
    CODE,
    "Once upon a time",
    "To be, or not to be, that is the question: " * 20,
)


@asynccontextmanager
async def loaded(path: Path, options: EngineOptions, slots: int = 8) -> AsyncIterator[LLMEngine]:
    engine = LLMEngine.load_model(
        ModelFile.open(path),
        max_model_len=MODEL_LEN,
        max_concurrent=slots,
        threads=2,
        progress=lambda *_: None,
        options=options,
    )
    try:
        yield engine
    finally:
        await engine.close()


def requests(engine: LLMEngine) -> list[GenerationRequest]:
    stop = StopConditions(LENGTH, ignore_eos=True)
    prompts = [tuple(engine.encode(text)) for text in TEXTS]
    return [GenerationRequest(prompt, sampling, stop) for prompt in prompts for sampling in (GREEDY, SEEDED)]


async def deltas_of(engine: LLMEngine, request: GenerationRequest) -> list[Delta]:
    return [delta async for delta in engine.generate(request)]


async def tokens_of(engine: LLMEngine, request: GenerationRequest) -> list[int]:
    return [token for delta in await deltas_of(engine, request) for token in delta.token_ids]


@pytest.fixture(scope="module")
def plain(smollm2_path: Path) -> list[list[int]]:
    """The answers of the plain engine, each computed alone."""

    async def answers() -> list[list[int]]:
        async with loaded(smollm2_path, PLAIN) as engine:
            return [await tokens_of(engine, request) for request in requests(engine)]

    return asyncio.run(answers())


async def all_at_once(engine: LLMEngine) -> list[list[int]]:
    return await asyncio.gather(*(tokens_of(engine, request) for request in requests(engine)))


ACTED: dict[str, tuple[EngineOptions, Callable[[LLMEngine], bool]]] = {
    "batched": (PLAIN, lambda engine: engine.counters.step_tokens > 3 * engine.counters.steps),
    "chunked": (replace(PLAIN, token_budget=40), lambda engine: engine.counters.steps > 40),
    "prefix-cached": (
        replace(PLAIN, prefix_cache=True, token_budget=128),
        lambda engine: engine.counters.prefix_hits > 200,
    ),
    "speculative": (replace(PLAIN, speculation=True), lambda engine: engine.counters.accepted > 20),
    "preempted": (replace(PLAIN, kv_tokens=700), lambda engine: engine.counters.preemptions > 0),
    "preempted and prefix-cached": (
        EngineOptions(kv_tokens=700),
        lambda engine: engine.counters.preemptions > 0 and engine.counters.prefix_hits > 100,
    ),
    "slots": (replace(PLAIN, layout=KVLayout.SLOTS), lambda engine: engine.counters.steps > 0),
    **{
        policy: (EngineOptions(policy=policy, token_budget=64), lambda engine: engine.counters.steps > 0)
        for policy in POLICIES
    },
}


@pytest.mark.parametrize("technique", ACTED)
async def test_answers_with_a_technique_then_as_without(
    smollm2_path: Path, plain: list[list[int]], technique: str
) -> None:
    options, acted = ACTED[technique]
    async with loaded(smollm2_path, options) as engine:
        answers = await all_at_once(engine)
        assert acted(engine), engine.counters
    assert answers == plain


async def test_answers_when_neighbours_leave_then_the_same(smollm2_path: Path, plain: list[list[int]]) -> None:
    async def leave_early(engine: LLMEngine, request: GenerationRequest, after: int) -> None:
        stream = engine.generate(request)
        for _ in range(after):
            await anext(stream)
        await stream.aclose()

    async with loaded(smollm2_path, EngineOptions(kv_tokens=1400), slots=16) as engine:
        neighbours = [leave_early(engine, each, after) for after, each in enumerate(requests(engine)[:5], 1)]
        answers, *_ = await asyncio.gather(all_at_once(engine), *neighbours)
        assert engine.counters.cancelled == len(neighbours)
    assert answers == plain


@pytest.mark.parametrize("cut", [1, 7, LENGTH - 1])
async def test_answer_when_resumed_then_it_continues_exactly(
    smollm2_path: Path, plain: list[list[int]], cut: int
) -> None:
    """The rest of an answer that another engine began, by the tokens that exist and the seed."""
    async with loaded(smollm2_path, EngineOptions()) as engine:
        resumed = [
            replace(request, answer_tokens=tuple(answer[:cut]))
            for request, answer in zip(requests(engine), plain, strict=True)
        ]
        rests = await asyncio.gather(*(tokens_of(engine, request) for request in resumed))
    assert rests == [answer[cut:] for answer in plain]


async def test_resumed_text_when_cut_at_a_cursor_then_it_joins(smollm2_path: Path) -> None:
    async with loaded(smollm2_path, EngineOptions()) as engine:
        prompt = tuple(engine.encode("Translate into Japanese and add emojis: good morning, my friend\n"))
        whole = GenerationRequest(prompt, SEEDED, StopConditions(LENGTH, ignore_eos=True), cursors=True)
        deltas = await deltas_of(engine, whole)
        tokens = [token for delta in deltas for token in delta.token_ids]
        for count in range(1, LENGTH - 1, 6):
            cursor = deltas[count - 1].cursor
            assert cursor is not None
            rest = await deltas_of(engine, replace(whole, answer_tokens=tuple(tokens[:cursor])))
            before = "".join(delta.text for delta in deltas[:count])
            assert before + "".join(delta.text for delta in rest) == "".join(delta.text for delta in deltas)


async def test_prefixes_when_of_another_tenant_then_not_shared(smollm2_path: Path) -> None:
    async with loaded(smollm2_path, EngineOptions()) as engine:
        request = replace(requests(engine)[0], stop=StopConditions(1))
        cached = [
            (await deltas_of(engine, replace(request, tenant=tenant)))[0].cached_tokens for tenant in ("a", "b", "a")
        ]
    assert cached[:2] == [0, 0]
    assert cached[2] > len(request.prompt_tokens) - 64


async def test_prefix_when_shared_by_sixteen_then_computed_once(smollm2_path: Path) -> None:
    """All arrive at once; the work of prefill is at least five times less than without the cache."""
    async with loaded(smollm2_path, EngineOptions(speculation=False), slots=16) as engine:
        prefix = engine.encode("The quick brown fox jumps over the lazy dog near the river bank. " * 24)[:320]
        prompts = [(*prefix, *engine.encode(f"Question {number}:")) for number in range(16)]
        stop = StopConditions(2, ignore_eos=True)
        await asyncio.gather(*(tokens_of(engine, GenerationRequest(prompt, GREEDY, stop)) for prompt in prompts))
        total = sum(len(prompt) for prompt in prompts)
        assert total - engine.counters.prefix_hits <= total / 5


async def test_prompt_logprobs_when_chunked_then_the_same(smollm2_path: Path) -> None:
    answers = []
    for options in (PLAIN, EngineOptions(token_budget=32)):
        async with loaded(smollm2_path, options) as engine:
            request = replace(requests(engine)[0], prompt_logprobs=1, stop=StopConditions(1))
            (delta,) = await deltas_of(engine, request)
            assert [each.token for each in delta.prompt_logprobs[1:] if each] == list(request.prompt_tokens[1:])
            answers.append(delta.prompt_logprobs)
    assert answers[0] == answers[1]
    assert answers[0][0] is None
