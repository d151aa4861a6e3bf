"""Small random mixtures of experts, and decoders with and without a cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from models.native_models import CONFIGS, model_weights

from headrace_models.decoder import Batch, Floats, Segment
from headrace_models.encodings import TensorType
from headrace_models.native.packing import WeightType
from headrace_models.native_decoder import NativeDecoder
from headrace_models.weights import ModelWeights
from headrace_moe.cache.live import LiveCache
from headrace_moe.cache.policies import Policy
from headrace_moe.cache.prediction import Predictor
from headrace_moe.cache.trace import TraceRecorder

CONFIG = CONFIGS["shared-experts"]
"""Two of three layers have 10 experts, of which 3 are used."""
PROMPT, ANSWER = 20, 30


def weights(kind: TensorType = TensorType.Q8_0) -> ModelWeights:
    return model_weights(CONFIG, kind)


def resident(of: ModelWeights) -> NativeDecoder:
    return NativeDecoder.load(of, threads=2, progress=lambda _: None, weight_type=WeightType.STORED)


def cached(
    of: ModelWeights,
    slots: int,
    policy: Policy,
    predictor: Predictor | None = None,
    link: int = 2,
    recorder: TraceRecorder | None = None,
) -> tuple[NativeDecoder, LiveCache]:
    cache = LiveCache(of, slots=slots, policy=policy, predictor=predictor, link=link, recorder=recorder)
    decoder = NativeDecoder.load(of, threads=2, progress=lambda _: None, weight_type=WeightType.STORED, experts=cache)
    return decoder, cache


def run(decoder: NativeDecoder, tokens: Sequence[int]) -> Floats:
    """Return the logits of a prompt and of an answer of given tokens, one at a time: [1 + answer, vocabulary]."""
    decoder.allocate_cache(4, 16)
    blocks = (2, 0, 3, 1)
    rows = [decoder.step(Batch(tokens[:PROMPT], [Segment(blocks, 0, PROMPT)], [PROMPT - 1])).copy()]
    rows += [
        decoder.step(Batch([tokens[at]], [Segment(blocks, at, 1)], [0])).copy() for at in range(PROMPT, len(tokens))
    ]
    return np.concatenate(rows)
