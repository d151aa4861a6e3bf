"""Packed weights in a real object store: mapped by later loads, bit-identical, and found only if nothing changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models.native_models import PLAIN, logits_of, model_weights, token_ids
from store.store_world import MEGABYTE, StoreThread

from headrace.store.keys import ObjectClass
from headrace_models.encodings import TensorType
from headrace_models.kept_weights import KeptWeights, WeightStage, weights_name
from headrace_models.native.packing import WeightType
from headrace_models.native_decoder import NativeDecoder
from headrace_models.weights import ModelWeights
from headrace_node.store.accounts import Limits


@pytest.fixture
def world(tmp_path: Path) -> Iterator[StoreThread]:
    with StoreThread(tmp_path) as thread:
        yield thread


@pytest.fixture
def weights(tmp_path: Path) -> ModelWeights:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return replace(model_weights(PLAIN, TensorType.Q8_0), path=path)


def load(
    world: StoreThread, weights: ModelWeights, weight_type: WeightType = WeightType.STORED
) -> tuple[NativeDecoder, list[WeightStage]]:
    """Load with a session of its own; return the decoder and the stages."""
    stages: list[WeightStage] = []
    packer = KeptWeights(world.open(), stages.append)
    decoder = NativeDecoder.load(weights, threads=2, progress=lambda _: None, weight_type=weight_type, packer=packer)
    return decoder, stages


def test_weights_when_loaded_again_then_mapped_and_identical(world: StoreThread, weights: ModelWeights) -> None:
    """The logits are those of weights that were packed into private memory, bit for bit."""
    first, stored = load(world, weights)
    again, mapped = load(world, weights)
    private = NativeDecoder.load(weights, threads=2, progress=lambda _: None, weight_type=WeightType.STORED)
    assert (stored, mapped) == ([WeightStage.STORING], [WeightStage.MAPPING])
    tokens = token_ids(PLAIN, 20)
    expected = logits_of(private, tokens)
    for decoder in (first, again):
        np.testing.assert_array_equal(logits_of(decoder, tokens), expected)
    (stored_object,) = world.stored()
    assert stored_object.record.object_class is ObjectClass.WEIGHTS


def test_weights_when_last_process_ended_then_still_stored(world: StoreThread, weights: ModelWeights) -> None:
    load(world, weights)[0].close()
    assert load(world, weights)[1] == [WeightStage.MAPPING]


def test_weights_when_file_is_replaced_then_stored_again(world: StoreThread, weights: ModelWeights) -> None:
    load(world, weights)
    os.utime(weights.path, ns=(1, 1))
    assert load(world, weights)[1] == [WeightStage.STORING]


def test_weights_when_of_another_type_then_another_name(weights: ModelWeights) -> None:
    other = replace(weights, config=replace(PLAIN, rope_theta=1.0))
    named = {weights_name(weights, each) for each in WeightType} | {weights_name(other, WeightType.STORED)}
    assert len(named) == len(WeightType) + 1


def test_weights_when_store_is_full_then_private(tmp_path: Path, weights: ModelWeights) -> None:
    with StoreThread(tmp_path, Limits(total_bytes=MEGABYTE, tenant_bytes=4096)) as world:
        decoder, stages = load(world, weights)
        assert stages == [WeightStage.LOADING]
        assert np.isfinite(logits_of(decoder, token_ids(PLAIN, 3))).all()
        assert world.stored() == []
