"""Rows with a LoRA adapter are computed as by merged weights, and rows without one as if there were none."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import numpy as np
import pytest
from models.adapter_models import merged, random_adapter
from models.native_models import CONFIGS, PLAIN, model_weights, token_ids

from headrace_models.adapters import Adapter, LowRank
from headrace_models.decoder import Batch, Decoder, Floats, Segment
from headrace_models.encodings import TensorType
from headrace_models.native.packing import WeightType
from headrace_models.native_decoder import NativeDecoder
from headrace_models.torch_decoder import TorchDecoder
from headrace_models.weights import ModelWeights

COUNT = 70
"""Tokens: more than a run of the kernels has."""
BLOCK = 16


def native(weights: ModelWeights, weight_type: WeightType = WeightType.FLOAT32) -> Decoder:
    return NativeDecoder.load(weights, threads=2, progress=lambda _: None, weight_type=weight_type)


def reference(weights: ModelWeights) -> Decoder:
    return TorchDecoder(weights, threads=1, progress=lambda _: None)


def logits(decoder: Decoder, adapters: list[int], counts: list[int]) -> list[Floats]:
    """Return the logits of sequences that are computed in one batch, each with an adapter: [tokens, vocabulary]."""
    needed = [-(-count // BLOCK) for count in counts]
    decoder.allocate_cache(sum(needed), BLOCK)
    firsts = np.cumsum([0, *needed]).tolist()
    segments = [
        Segment(range(first, first + blocks), 0, count, adapter)
        for first, blocks, count, adapter in zip(firsts, needed, counts, adapters, strict=False)
    ]
    texts = [token_ids(PLAIN, count, seed=adapter) for adapter, count in zip(adapters, counts, strict=True)]
    tokens = list(chain.from_iterable(texts))
    rows = decoder.step(Batch(tokens, segments, range(len(tokens))))
    return np.split(rows.copy(), np.cumsum(counts)[:-1])


def alone(decoder: Decoder, adapter: int, count: int) -> Floats:
    return logits(decoder, [adapter], [count])[0]


@pytest.mark.parametrize("make", [native, reference])
@pytest.mark.parametrize("name", CONFIGS)
def test_adapter_when_computed_then_the_logits_of_merged_weights(make: Callable[..., Decoder], name: str) -> None:
    config = CONFIGS[name]
    weights, adapter = model_weights(config), random_adapter(config, rank=5)
    ours, theirs = make(weights), reference(merged(weights, adapter))
    ours.set_adapter(1, adapter)
    theirs.set_adapter(1, Adapter({}))
    changed, expected = alone(ours, 1, COUNT), alone(theirs, 1, COUNT)
    np.testing.assert_allclose(changed, expected, atol=1e-4, rtol=1e-4)
    ours.set_adapter(1, Adapter({}))
    assert np.abs(changed - alone(ours, 1, COUNT)).max() > 0.1, "the adapter changes nothing"


@pytest.mark.parametrize("kind", [TensorType.F32, TensorType.Q4_1, TensorType.Q8_0, TensorType.F16])
@pytest.mark.parametrize("name", ["plain", "gemma"])
def test_batch_of_adapters_then_bit_identical_to_each_alone(kind: TensorType, name: str) -> None:
    """Sequences without an adapter and with three, which change different matrices."""
    decoder = native(model_weights(CONFIGS[name], kind), WeightType.STORED)
    plain = alone(decoder, 0, 40)
    for index, names in enumerate([("attn_q", "ffn_down"), ("attn_v", "ffn_gate"), ("ffn_up", "attn_output")], 1):
        decoder.set_adapter(index, random_adapter(PLAIN, rank=3 * index, seed=index, names=names))
    adapters, counts = [2, 0, 1, 3, 3, 0], [1, 40, 70, 5, 33, 40]
    mixed = logits(decoder, adapters, counts)
    for adapter, count, rows in zip(adapters, counts, mixed, strict=True):
        np.testing.assert_array_equal(rows, alone(decoder, adapter, count))
        if adapter == 0:
            np.testing.assert_array_equal(rows, plain)


@pytest.mark.parametrize("make", [native, reference])
def test_sum_of_adapters_when_merged_then_that_of_both_ranks(make: Callable[..., Decoder]) -> None:
    weights, first, second = model_weights(PLAIN), random_adapter(PLAIN, rank=3), random_adapter(PLAIN, rank=6, seed=1)
    both = {
        name: LowRank(np.concatenate([a.a, b.a]), np.concatenate([a.b, b.b], axis=1))
        for name, a, b in ((name, first.matrices[name], second.matrices[name]) for name in first.matrices)
    }
    decoder, summed = make(weights), make(merged(weights, first, second))
    decoder.set_adapter(7, Adapter(both))
    summed.set_adapter(7, Adapter({}))
    np.testing.assert_allclose(alone(decoder, 7, COUNT), alone(summed, 7, COUNT), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", [native, reference])
def test_index_when_freed_or_set_again_then_as_said(make: Callable[..., Decoder]) -> None:
    decoder, other = make(model_weights(PLAIN)), make(model_weights(PLAIN))
    for seed in (1, 2):
        decoder.set_adapter(1, random_adapter(PLAIN, seed=seed))
    other.set_adapter(1, random_adapter(PLAIN, seed=2))
    np.testing.assert_array_equal(alone(decoder, 1, 20), alone(other, 1, 20))
    decoder.set_adapter(1, None)
    with pytest.raises(ValueError, match="adapter 1 is not loaded"):
        alone(decoder, 1, 20)
    assert alone(decoder, 0, 20).shape == (20, PLAIN.vocabulary)
