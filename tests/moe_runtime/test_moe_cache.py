"""The live cache: the bits of all-resident decoding at any size, policy and prediction; the simulator's counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from models.native_models import token_ids
from moe_runtime.moe_caches import ANSWER, CONFIG, PROMPT, cached, resident, run, weights

from headrace.errors import InvalidModel
from headrace_models.decoder import Floats
from headrace_models.encodings import TensorType
from headrace_models.expert_source import LookAhead, Routing
from headrace_moe.cache.policies import LFRU, LFU, LRU, Belady, LayerLRU, Policy, Static
from headrace_moe.cache.prediction import Predictor, gate_look_ahead
from headrace_moe.cache.simulate import LOOK_AHEAD, NAMES, OFFLINE, make_policy, simulate
from headrace_moe.cache.trace import Trace, TraceHeader, TraceRecorder

TOKENS = token_ids(CONFIG, PROMPT + ANSWER)
HEADER = TraceHeader("random", CONFIG.layers, 10, 3, 1)
POLICIES: dict[str, Callable[[], Policy]] = {
    "lru": LRU,
    "lru-layer": lambda: LayerLRU(10),
    "lfu": lambda: LFU(64),
    "lfru": LFRU,
    "static": lambda: Static(range(10, 14)),
    "belady": lambda: Belady([]),
}


def adversary(routing: Routing, look_ahead: LookAhead) -> Sequence[int]:
    """Predict what is not needed: the least likely experts of the next layer."""
    return [int(each) for each in np.argsort(look_ahead(routing.layer + 1).max(axis=0))]


def guess(routing: Routing, look_ahead: LookAhead) -> Sequence[int]:
    del look_ahead
    return [int(each) for each in np.random.default_rng(routing.layer).permutation(10)]


PREDICTORS: dict[str, Predictor | None] = {
    "none": None,
    "gate": gate_look_ahead,
    "adversary": adversary,
    "random": guess,
}


@pytest.fixture(scope="module")
def expected() -> Floats:
    return run(resident(weights()), TOKENS)


@pytest.mark.parametrize("slots", [1, 2, 5, 13, 20])
@pytest.mark.parametrize("policy", POLICIES)
def test_cache_when_of_any_size_then_the_bits_of_all_resident(expected: Floats, policy: str, slots: int) -> None:
    decoder, cache = cached(weights(), slots, POLICIES[policy]())
    assert np.array_equal(run(decoder, TOKENS), expected)
    found = len(cache.core.slots)
    assert (cache.core.counters.misses == found) == (slots == 20)  # with room for all, each is loaded once
    assert found <= slots
    decoder.close()


@pytest.mark.parametrize("slots", [5, 8, 20])
@pytest.mark.parametrize("name", PREDICTORS)
def test_cache_when_predicted_well_or_badly_then_same_bits(expected: Floats, name: str, slots: int) -> None:
    decoder, cache = cached(weights(), slots, LayerLRU(10), PREDICTORS[name])
    assert np.array_equal(run(decoder, TOKENS), expected)
    counters = cache.core.counters
    assert (counters.prefetched > 0) == (name != "none")
    assert counters.prefetch_useful + counters.prefetch_wasted <= counters.prefetched
    decoder.close()


def test_prefetch_when_the_gate_predicts_then_more_is_useful() -> None:
    useful = {}
    for name in ("gate", "adversary"):
        decoder, cache = cached(weights(), 8, LayerLRU(10), PREDICTORS[name])
        run(decoder, TOKENS)
        decoder.close()
        useful[name] = cache.core.counters.prefetch_useful
    assert useful["gate"] > 2 * useful["adversary"]


@pytest.mark.parametrize("kind", [TensorType.F32, TensorType.Q4_0])
def test_cache_when_experts_are_encoded_otherwise_then_same_bits(kind: TensorType) -> None:
    decoder, _ = cached(weights(kind), 4, LRU(), gate_look_ahead)
    assert np.array_equal(run(decoder, TOKENS), run(resident(weights(kind)), TOKENS))
    decoder.close()


def test_cache_when_experts_differ_in_encoding_then_refused() -> None:
    mixed = weights()
    name = "blk.2.ffn_down.3.weight"
    mixed.tensors[name] = weights(TensorType.F16).tensors[name]  # type: ignore[index]  # a dictionary in fact
    with pytest.raises(InvalidModel, match="the experts of layer 2 are encoded otherwise than those of layer 1"):
        cached(mixed, 4, LRU())


@pytest.fixture(scope="module")
def trace() -> Trace:
    recorder = TraceRecorder(HEADER)
    decoder, _ = cached(weights(), 20, LRU(), gate_look_ahead, recorder=recorder)
    run(decoder, TOKENS)
    decoder.close()
    return recorder.trace()


@pytest.mark.parametrize("slots", [4, 9, 16])
@pytest.mark.parametrize("name", NAMES)
def test_simulator_when_replayed_then_counts_of_the_live_cache(trace: Trace, name: str, slots: int) -> None:
    predictor = gate_look_ahead if name == LOOK_AHEAD else None
    decoder, cache = cached(weights(), slots, make_policy(trace, slots, name), predictor, link=1)
    run(decoder, TOKENS)
    decoder.close()
    assert simulate(trace, slots=slots, policy=name) == cache.core.counters


@pytest.mark.parametrize("slots", [6, 10, 14])
def test_belady_when_simulated_then_no_other_hits_more(trace: Trace, slots: int) -> None:
    hits = {name: simulate(trace, slots=slots, policy=name).hits for name in NAMES if name != LOOK_AHEAD}
    assert set(OFFLINE) < set(hits)
    assert max(hits, key=hits.__getitem__) == "belady" or hits["belady"] == max(hits.values())
    assert hits["belady"] > hits["lru"]


def test_trace_when_written_and_read_then_the_same(trace: Trace, tmp_path: Path) -> None:
    trace.write(tmp_path / "trace.npz")
    found = Trace.read(tmp_path / "trace.npz")
    assert found.header == trace.header
    for ours, theirs in zip(trace, found, strict=True):
        assert (ours.layer, list(ours.predicted)) == (theirs.layer, list(theirs.predicted))
        assert np.array_equal(ours.experts, theirs.experts)
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    with pytest.raises(InvalidModel, match=r"broken\.npz is no trace"):
        Trace.read(tmp_path / "broken.npz")
