"""LoRA adapters in the engine: mixed batches, names, unloading under load, and the prefix cache."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from llm_runtime.llm_adapter import write_adapter
from llm_runtime.llm_requests import GREEDY

from headrace.errors import InvalidModel
from headrace.serving.engine import Delta, GenerationRequest, Sampling, StopConditions
from headrace.serving.errors import EngineDied, InvalidRequest, ModelNotFound
from headrace_llm import adapters
from headrace_llm.engine import LLMEngine
from headrace_llm.loading import DType, LoadedDecoder, load_decoder
from headrace_llm.options import EngineOptions
from headrace_models.model_file import ModelFile

SEEDED = Sampling(temperature=0.8, top_p=0.95, seed=11)
STOP = StopConditions(max_tokens=12, ignore_eos=True)
PROMPT = (
    "The mill stands where the channel meets the river. In spring the water is high, and the miller opens the second "
    "gate so that the wheel does not turn too fast. His daughter keeps the accounts, and every evening she"
)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [write_adapter(folder / str(seed), seed) for seed in range(2)]


@pytest.fixture
async def engine(smollm2_path: Path) -> AsyncIterator[LLMEngine]:
    loaded = LLMEngine.load_model(
        ModelFile.open(smollm2_path),
        max_model_len=256,
        max_concurrent=8,
        threads=2,
        progress=lambda *_: None,
        options=EngineOptions(),
    )
    yield loaded
    await loaded.close()


def request(
    engine: LLMEngine, adapter: str, sampling: Sampling = GREEDY, stop: StopConditions = STOP
) -> GenerationRequest:
    return GenerationRequest(tuple(engine.encode(PROMPT)), sampling, stop, adapter=adapter)


async def deltas_of(engine: LLMEngine, made: GenerationRequest) -> list[Delta]:
    return [delta async for delta in engine.generate(made)]


async def tokens_of(engine: LLMEngine, made: GenerationRequest) -> list[int]:
    return [token for delta in await deltas_of(engine, made) for token in delta.token_ids]


async def test_batch_of_adapters_then_each_answer_as_alone(engine: LLMEngine, paths: list[Path]) -> None:
    requests = [request(engine, name, sampling) for sampling in (GREEDY, SEEDED) for name in ("", "a", "b")]
    plain = [await tokens_of(engine, each) for each in requests if not each.adapter]
    assert engine.counters.adapter_tokens == 0
    for name, path in zip("ab", paths, strict=True):
        await engine.load_adapter(name, path)
    assert engine.adapters() == ("a", "b")
    alone = [await tokens_of(engine, each) for each in requests]
    steps = engine.counters.steps
    mixed = await asyncio.gather(*(tokens_of(engine, each) for each in requests))
    assert engine.counters.steps - steps < len(requests) * STOP.max_tokens / 2, "the requests did not share steps"
    assert mixed == alone
    assert [alone[0], alone[3]] == plain
    assert len({tuple(each) for each in alone[:3]}) == 3, "the adapters change nothing"
    assert engine.counters.adapter_tokens > 4 * STOP.max_tokens


async def test_name_when_loaded_again_then_no_prefix_of_the_first(engine: LLMEngine, paths: list[Path]) -> None:
    """The second adapter has the name and the index of the first, and other keys and values for the same prompt."""
    answers, cached = [], []
    for path in (paths[0], paths[1], paths[1]):
        await engine.load_adapter("a", path)
        first = await deltas_of(engine, request(engine, "a"))
        again = await deltas_of(engine, request(engine, "a"))
        answers.append([token for delta in first for token in delta.token_ids])
        cached.append((first[0].cached_tokens, again[0].cached_tokens > 0))
        await engine.unload_adapter("a")
    assert cached == [(0, True)] * 3
    assert answers[0] != answers[1] == answers[2]


async def test_adapter_when_unloaded_then_running_answers_end(engine: LLMEngine, paths: list[Path]) -> None:
    await engine.load_adapter("a", paths[0])
    long = replace(STOP, max_tokens=60)
    whole = await tokens_of(engine, request(engine, "a", stop=long))
    running = engine.generate(request(engine, "a", stop=long))
    tokens = list((await anext(running)).token_ids)
    await engine.unload_adapter("a")
    assert engine.adapters() == ()
    with pytest.raises(ModelNotFound, match="'a' is not loaded"):
        await tokens_of(engine, request(engine, "a"))
    await engine.load_adapter("a", paths[1])  # at another index, while the first is in use
    tokens += [token async for delta in running for token in delta.token_ids]
    assert tokens == whole
    assert await tokens_of(engine, request(engine, "a", stop=long)) != whole


async def test_adapter_when_it_cannot_be_loaded_then_refused(
    engine: LLMEngine, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidRequest, match=r"of another model: base_model.model.model.layers.0.\w+.\w+.lora_A"):
        await engine.load_adapter("other", write_adapter(tmp_path / "other", 0, width=2048, layers=1))
    with pytest.raises(InvalidRequest, match=r"cannot read .*adapter_config.json"):
        await engine.load_adapter("none", tmp_path)
    await engine.load_adapter("a", paths[0])
    with pytest.raises(InvalidRequest, match="already loaded"):
        await engine.load_adapter("a", paths[1])
    monkeypatch.setattr(adapters, "MAX_ADAPTER_BYTES", 4 << 20)
    with pytest.raises(InvalidRequest, match="4 MiB of adapters are the maximum"):
        await engine.load_adapter("b", paths[1])
    monkeypatch.setattr(adapters, "MAX_ADAPTERS", 1)
    with pytest.raises(InvalidRequest, match="1 adapters are the maximum"):
        await engine.load_adapter("b", paths[1])
    with pytest.raises(ModelNotFound):
        await engine.unload_adapter("b")
    assert engine.adapters() == ("a",)
    monkeypatch.undo()
    await engine.load_adapter("b", paths[1])  # what was refused has left nothing behind
    assert len(await tokens_of(engine, request(engine, "b"))) == STOP.max_tokens


async def test_adapter_when_the_engine_has_stopped_then_told(engine: LLMEngine, paths: list[Path]) -> None:
    await tokens_of(engine, request(engine, ""))
    await engine.close()
    with pytest.raises(EngineDied):
        await engine.load_adapter("a", paths[0])


def started(path: Path, given: dict[str, Path]) -> LLMEngine:
    """An engine that has loaded adapters before its first step."""
    file = ModelFile.open(path)
    decoder = load_decoder(file, dtype=DType.AUTO, threads=2, progress=lambda *_: None)
    return LLMEngine.assemble(
        file,
        lambda: LoadedDecoder(decoder, None),
        max_model_len=256,
        max_concurrent=8,
        options=EngineOptions(),
        adapters=given,
    )


async def test_adapters_when_given_at_start_then_as_loaded_later(
    engine: LLMEngine, smollm2_path: Path, paths: list[Path]
) -> None:
    await engine.load_adapter("b", paths[1])
    expected = await tokens_of(engine, request(engine, "b"))
    early = started(smollm2_path, {"a": paths[0], "b": paths[1]})
    try:
        assert early.adapters() == ("a", "b")
        assert await tokens_of(early, request(early, "b")) == expected
        await early.unload_adapter("a")
        await early.load_adapter("a", paths[1])
        assert await tokens_of(early, request(early, "a")) == expected
    finally:
        await early.close()


def test_adapter_when_of_another_model_at_start_then_named(smollm2_path: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"adapter m:wide: wide is of another model: .*lora_A"):
        started(smollm2_path, {"m:wide": write_adapter(tmp_path / "wide", 0, width=64)})
