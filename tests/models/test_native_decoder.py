"""The native decoder computes what the torch decoder computes on the same weights, for every configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models.logit_quality import TEXT, perplexity, relative_error
from models.native_models import CONFIGS, PLAIN, logits_of, model_weights, token_ids

from headrace_models.decoder import Batch, Floats, Segment
from headrace_models.encodings import TensorType
from headrace_models.model_file import ModelFile
from headrace_models.native.packing import WeightType
from headrace_models.native_decoder import NativeDecoder
from headrace_models.tokenizer import ModelTokenizer
from headrace_models.torch_decoder import TorchDecoder
from headrace_models.weights import ModelWeights, RawTensor

COUNT = 45
MATRICES = tuple(kind for kind in TensorType if kind is not TensorType.F32)


def native(weights: ModelWeights, weight_type: WeightType = WeightType.STORED, threads: int = 2) -> NativeDecoder:
    return NativeDecoder.load(weights, threads=threads, progress=lambda _: None, weight_type=weight_type)


def reference(weights: ModelWeights) -> TorchDecoder:
    return TorchDecoder(weights, threads=1, progress=lambda _: None)


@pytest.fixture(params=["avx512", "avx2", "portable"])
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HEADRACE_ISA", request.param)
    name: str = request.param
    return name


@pytest.mark.parametrize("name", CONFIGS)
def test_float32_when_computed_then_the_logits_of_torch(name: str) -> None:
    weights = model_weights(CONFIGS[name], paired=True)
    tokens = token_ids(CONFIGS[name], COUNT)
    theirs = logits_of(reference(weights), tokens)
    np.testing.assert_allclose(logits_of(native(weights), tokens, [20]), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", MATRICES)
def test_stored_weights_when_computed_then_close_to_torch(kind: TensorType) -> None:
    """The bound of the float16 cache and of combined scales in float16, which exceed the 16-bit activations."""
    weights = model_weights(PLAIN, kind, paired=True)
    tokens = token_ids(PLAIN, COUNT)
    assert relative_error(logits_of(native(weights), tokens), logits_of(reference(weights), tokens)) < 0.005


@pytest.mark.parametrize("kind", MATRICES)
def test_quantised_file_when_held_as_float32_then_exact(kind: TensorType) -> None:
    weights = model_weights(PLAIN, kind)
    tokens = token_ids(PLAIN, COUNT)
    ours = logits_of(native(weights, WeightType.FLOAT32), tokens)
    assert relative_error(ours, logits_of(reference(weights), tokens)) < 1e-4


@pytest.mark.parametrize("kind", [TensorType.F32, TensorType.Q4_1, TensorType.Q8_0, TensorType.Q6_K])
def test_each_isa_when_computed_then_close_to_portable(
    isa: str, kind: TensorType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Integer sums are equal; float32 sums are rounded differently, with and without fused multiplication."""
    weights, tokens = model_weights(CONFIGS["gemma"], kind), token_ids(PLAIN, COUNT)
    ours = logits_of(native(weights), tokens)
    monkeypatch.setenv("HEADRACE_ISA", "portable")
    assert relative_error(ours, logits_of(native(weights), tokens)) < (1e-5 if kind is TensorType.F32 else 1e-3)


@pytest.mark.parametrize("kind", [TensorType.Q4_1, TensorType.Q8_0])
def test_largest_codes_when_multiplied_then_no_overflow(isa: str, kind: TensorType) -> None:
    """Each code and both digits of each activation are the largest or least, with equal and with alternating signs."""
    config = replace(PLAIN, layers=1, tied=False)
    tensors = dict(model_weights(config, kind).tensors)
    hidden = np.full((config.vocabulary, config.width), 32384.0, dtype=np.float32)  # digits 127 and -128
    hidden[:, ::32] = 32512.0
    hidden[1::3] *= -1
    hidden[2::3, ::2] *= -1
    values = {"token_embd.weight": hidden, "blk.0.attn_output.weight": None, "blk.0.ffn_down.weight": None}
    for name, rows in values.items():
        shape = tensors[name].shape
        data = np.zeros(shape, dtype=np.float32) if rows is None else rows
        tensors[name] = RawTensor(name, shape, TensorType.F32, memoryview(data.tobytes()))
    one = np.ones(1, dtype=np.float16).tobytes()
    block = one + bytes(2) + b"\xff" * 16 if kind is TensorType.Q4_1 else one + b"\x80" * 32
    head = tensors["output.weight"]
    tensors["output.weight"] = replace(head, data=memoryview(block * (len(head.data) // len(block))))
    weights, tokens = ModelWeights.checked(Path("largest"), config, tensors), [0, 1, 2]
    ours = logits_of(native(weights), tokens)
    np.testing.assert_allclose(ours, logits_of(native(weights, WeightType.FLOAT32), tokens), rtol=1e-5, atol=0.2)


def test_hidden_states_when_embedded_then_those_of_torch() -> None:
    weights, tokens = model_weights(PLAIN), token_ids(PLAIN, COUNT)
    batch = Batch(tokens, [Segment([1, 0, 2], 0, COUNT)], [])
    ours, theirs = native(weights), reference(weights)
    for decoder in (ours, theirs):
        decoder.allocate_cache(3, 16)
    np.testing.assert_allclose(ours.embed(batch), theirs.embed(batch), atol=1e-4, rtol=1e-4)


def test_blocks_when_imported_then_resumed_bit_by_bit() -> None:
    weights, tokens = model_weights(PLAIN, TensorType.Q4_1), token_ids(PLAIN, COUNT)
    whole = logits_of(native(weights), tokens)[-1]
    first, second = native(weights), native(weights)
    for decoder in (first, second):
        decoder.allocate_cache(8, 16)
    first.step(Batch(tokens[:-1], [Segment([0, 1, 2], 0, COUNT - 1)], []))
    first.copy_blocks([(1, 5)])
    second.import_blocks(first.export_blocks([0, 5, 2]), [7, 6, 3])
    resumed = second.step(Batch(tokens[-1:], [Segment([7, 6, 3], COUNT - 1, 1)], [0]))
    assert np.array_equal(resumed[0], whole)


def text_logits(path: Path, decoder: NativeDecoder | TorchDecoder) -> tuple[list[int], Floats]:
    tokens = list(ModelTokenizer(ModelFile.open(path)).encode(TEXT))
    return tokens, logits_of(decoder, tokens, block_tokens=len(tokens))


def test_real_model_when_float32_then_greedy_tokens_of_torch(smollm2_path: Path) -> None:
    weights = ModelFile.open(smollm2_path).weights
    tokens, theirs = text_logits(smollm2_path, reference(weights))
    _, ours = text_logits(smollm2_path, native(weights, WeightType.FLOAT32))
    assert np.array_equal(ours.argmax(1), theirs.argmax(1))
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert len(tokens) > 80


def test_real_model_when_quantised_then_perplexity_kept(smollm2_path: Path) -> None:
    weights = ModelFile.open(smollm2_path).weights
    tokens, theirs = text_logits(smollm2_path, reference(weights))
    _, ours = text_logits(smollm2_path, native(weights))
    assert relative_error(ours, theirs) < 0.001
    assert np.array_equal(ours.argmax(1), theirs.argmax(1))
    assert perplexity(tokens, ours) <= 1.001 * perplexity(tokens, theirs)
