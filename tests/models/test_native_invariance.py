"""A result does not depend on what else is computed: bit-identical however a run is cut, batched or stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from models.native_models import CONFIGS, PLAIN, logits_of, model_weights, scattered, token_ids

from headrace_models.config import DecoderConfig
from headrace_models.decoder import Batch, Segment
from headrace_models.encodings import TensorType
from headrace_models.native.packing import WeightType
from headrace_models.native_decoder import NativeDecoder

COUNT = 150
CASES: Sequence[tuple[DecoderConfig, TensorType]] = (
    *((PLAIN, kind) for kind in (TensorType.F32, TensorType.F16, TensorType.Q4_1, TensorType.Q8_0, TensorType.Q6_K)),
    (CONFIGS["gemma"], TensorType.Q4_K),
    (CONFIGS["gemma"], TensorType.BF16),
    (CONFIGS["small-heads"], TensorType.F32),
    (CONFIGS["shared-experts"], TensorType.Q8_0),
    (CONFIGS["shared-experts"], TensorType.Q4_0),
    (CONFIGS["wide-qk-norm"], TensorType.F32),
)


def decoder(config: DecoderConfig, kind: TensorType, threads: int = 2) -> NativeDecoder:
    weights = model_weights(config, kind)
    return NativeDecoder.load(weights, threads=threads, progress=lambda _: None, weight_type=WeightType.STORED)


@pytest.mark.parametrize(("config", "kind"), CASES)
@pytest.mark.parametrize(
    ("cuts", "block_tokens", "threads"),
    [
        ((), COUNT, 1),
        ((3, 40, 41, 140), 16, 2),
        ((129,), 5, 3),
        ((16, 32, 48, 60), 48, 2),
    ],
)
def test_run_when_cut_or_stored_otherwise_then_the_same_bits(
    config: DecoderConfig, kind: TensorType, cuts: tuple[int, ...], block_tokens: int, threads: int
) -> None:
    tokens = token_ids(config, COUNT)
    alone = logits_of(decoder(config, kind), tokens, range(1, COUNT))
    assert np.array_equal(logits_of(decoder(config, kind, threads), tokens, cuts, block_tokens), alone)


@pytest.mark.parametrize(("config", "kind"), CASES)
def test_sequences_when_batched_then_the_same_bits_as_alone(config: DecoderConfig, kind: TensorType) -> None:
    """17 sequences of different lengths: a chunk of a prompt beside single tokens, with and without outputs."""
    texts = [token_ids(config, 5 + 3 * i, seed=i) for i in range(17)]
    alone = [logits_of(decoder(config, kind), text)[-1] for text in texts]
    batched = decoder(config, kind)
    batched.allocate_cache(17 * 4, 16)
    tables = [scattered(64, 16, first=4 * i) for i in range(17)]
    chunks = [(0, len(text) - 1 - (i % 3) * 2) for i, text in enumerate(texts)]
    for step in range(3):
        due = [i for i, (start, end) in enumerate(chunks) if start < end] if step else range(17)
        segments = [Segment(tables[i], chunks[i][0], chunks[i][1] - chunks[i][0]) for i in due]
        tokens = [token for i in due for token in texts[i][chunks[i][0] : chunks[i][1]]]
        ends = np.cumsum([segment.count for segment in segments]) - 1
        logits = batched.step(Batch(tokens, segments, ends.tolist()))
        for i, row in zip(due, logits, strict=True):
            if chunks[i][1] == len(texts[i]):
                assert np.array_equal(row, alone[i])
        chunks = [(end, len(text)) for (_, end), text in zip(chunks, texts, strict=True)]
        if step == 0:
            chunks = [(start, min(start + 1 + start % 4, end)) for start, end in chunks]
