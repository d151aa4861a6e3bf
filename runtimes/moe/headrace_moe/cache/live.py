"""The live cache: gives a native decoder the experts of each layer, from slots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from headrace.metrics import runtime as names
from headrace_models.expert_source import ExpertGroup, LookAhead, Routing
from headrace_models.experts import ExpertsConfig
from headrace_models.native.packing import WeightType
from headrace_models.weights import ModelWeights
from headrace_moe.cache.core import CacheCore
from headrace_moe.cache.policies import Policy
from headrace_moe.cache.prediction import Predictor
from headrace_moe.cache.slots import ExpertSlots
from headrace_moe.cache.trace import TraceRecorder


class LiveCache:
    """Implements `headrace_models.expert_source.ExpertSource`.

    Args:
        slots: experts in memory.
        predictor: says what the next layer may need; None: nothing is prefetched.
        link: most experts prefetched per layer.
        recorder: gets all routings; None: nothing is recorded.
    """

    def __init__(
        self,
        weights: ModelWeights,
        *,
        slots: int,
        policy: Policy,
        weight_type: WeightType = WeightType.STORED,
        predictor: Predictor | None = None,
        link: int = 1,
        recorder: TraceRecorder | None = None,
    ) -> None:
        experts = weights.config.experts
        assert experts is not None
        self._experts: ExpertsConfig = experts
        self._layers = weights.config.layers
        self.slots = ExpertSlots(weights, experts, slots, weight_type)
        self.core = CacheCore(slots=slots, experts=experts.count, policy=policy, load=self.slots.load, link=link)
        self._predictor = predictor
        self._recorder = recorder

    def groups(self, routing: Routing, look_ahead: LookAhead) -> Iterator[ExpertGroup]:
        """Yield the experts of a layer in groups that stay in memory until the next one is asked for."""
        last = routing.layer + 1 == self._layers
        predicted = () if last or self._predictor is None else self._predictor(routing, look_ahead)
        if self._recorder is not None:
            self._recorder.add(routing.layer, routing.experts, predicted)
        first = routing.layer * self._experts.count
        for group in self.core.provide(routing.layer, unique(routing.experts), predicted):
            yield [self.slots.matrices(first + each, self.core.slots[first + each]) for each in group]

    def counters(self) -> Mapping[str, int]:
        """Return the counters of the cache, by the names of their metrics."""
        counted, size = self.core.counters, self.slots.expert_bytes
        return {
            names.MOE_CACHE_HITS: counted.hits,
            names.MOE_CACHE_MISSES: counted.misses,
            names.MOE_CACHE_LOADED_BYTES: (counted.misses + counted.prefetched) * size,
            names.MOE_PREFETCH_USEFUL_BYTES: counted.prefetch_useful * size,
            names.MOE_PREFETCH_WASTED_BYTES: counted.prefetch_wasted * size,
        }

    def close(self) -> None:
        """Stop the thread that loads."""
        self.slots.close()


def unique(experts: NDArray[np.int32] | NDArray[np.int16]) -> list[int]:
    """Return the experts that any token chose."""
    return [int(each) for each in np.unique(experts)]
