"""The decoder of the MoE server: with a cache of experts, or with all of them in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from headrace.errors import InvalidModel
from headrace.serving.engine import Progress
from headrace.store.client import Store
from headrace_llm.loading import DType
from headrace_models.decoder import Decoder
from headrace_models.kept_weights import WeightStage
from headrace_models.model_file import ModelFile
from headrace_models.native.packing import WeightType
from headrace_models.native_decoder import NativeDecoder
from headrace_moe.cache.live import LiveCache
from headrace_moe.cache.policies import POLICIES
from headrace_moe.cache.prediction import gate_look_ahead
from headrace_moe.cache.trace import TraceRecorder

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CachedDecoders:
    """Makes decoders with a cache; implements `headrace_llm.loading.DecoderOpener`.

    Args:
        percent: of the experts that are in memory, at least one expert.
        policy: a name in `POLICIES`.
        link: most experts prefetched per layer; 0: none.
        recorder: gets all routings.
    """

    percent: int
    policy: str
    link: int = 0
    recorder: TraceRecorder | None = None

    def __call__(
        self,
        file: ModelFile,
        *,
        dtype: DType,
        threads: int,
        progress: Progress,
        store: Store | None = None,
        on_kept: Callable[[str], object] | None = None,
    ) -> Decoder:
        """Return a decoder. Raises InvalidModel for a dense model, CannotStart."""
        del store, on_kept  # a store has whole models
        experts = file.config.experts
        if experts is None:
            raise InvalidModel(
                f"{file.path.name} has no experts that a cache could hold", hint="Serve it without an expert cache"
            )
        weight_type = WeightType.FLOAT32 if dtype is DType.FLOAT32 else WeightType.STORED
        layers = file.config.layers - experts.first_layer
        slots = max(1, layers * experts.count * self.percent // 100)
        progress(WeightStage.LOADING, None)
        cache = LiveCache(
            file.weights,
            slots=slots,
            policy=POLICIES[self.policy](layers, experts.count),
            weight_type=weight_type,
            predictor=gate_look_ahead if self.link or self.recorder else None,
            link=self.link,
            recorder=self.recorder,
        )
        log.info(
            "%d of %d experts in memory, %d bytes", slots, layers * experts.count, slots * cache.slots.expert_bytes
        )
        return NativeDecoder.load(
            file.weights,
            threads=threads,
            progress=lambda percent: progress(WeightStage.LOADING, percent),
            weight_type=weight_type,
            experts=cache,
        )
