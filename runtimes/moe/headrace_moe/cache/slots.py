"""The memory of the cache: equal slots in one arena, each with the matrices of an expert as the kernels read them.

The tier below is the model's file, mapped: an expert is packed from it into its slot. The kernel keeps pages of the
file while it has memory to spare, and drops them otherwise.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from headrace.errors import CannotStart, InvalidModel
from headrace_models.experts import ExpertsConfig
from headrace_models.kv_memory import untouched
from headrace_models.native.library import NativeExpert, native
from headrace_models.native.packing import WeightType, pack_tensor, packed_kind
from headrace_models.weights import FFN_PARTS, ModelWeights, RawTensor, expert_name

_ALIGNMENT = 64


class ExpertSlots:
    """Slots for the experts of a model.

    Raises CannotStart if the memory cannot be had, InvalidModel if the experts of the model differ in their encoding.
    """

    def __init__(self, weights: ModelWeights, experts: ExpertsConfig, slots: int, weight_type: WeightType) -> None:
        self._weights, self._experts = weights, experts
        self._kinds = [packed_kind(each, weight_type) for each in self._tensors(experts.first_layer, 0)]
        sizes = [
            native().headrace_tensor_bytes(kind, *tensor.shape)
            for kind, tensor in zip(self._kinds, self._tensors(experts.first_layer, 0), strict=True)
        ]
        self._offsets = [sum(sizes[:part]) for part in range(len(sizes))]
        self.expert_bytes = sum(sizes)
        self._check(weight_type)
        try:
            arena = untouched(slots * self.expert_bytes + _ALIGNMENT)
        except (OSError, OverflowError) as error:
            raise CannotStart(
                f"an expert cache of {slots * self.expert_bytes} bytes does not fit into memory",
                hint="Give the replica more memory, or make the cache smaller",
            ) from error
        self._arena = np.frombuffer(arena, dtype=np.uint8)
        self._first = self._arena.ctypes.data + -self._arena.ctypes.data % _ALIGNMENT
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="load-expert")
        self._loading: dict[int, Future[None]] = {}

    def load(self, key: int, slot: int, needed: bool) -> None:  # noqa: FBT001 - a Loader
        """Load an expert into a slot: now if it is needed, else on a thread, after what was asked for before."""
        self._wait(slot)
        if needed:
            self._fill(key, slot)
        else:
            self._loading[slot] = self._pool.submit(self._fill, key, slot)

    def matrices(self, key: int, slot: int) -> NativeExpert:
        """Return the expert in a slot, after it is loaded."""
        self._wait(slot)
        addresses = [self._address(slot) + offset for offset in self._offsets]
        return NativeExpert(*addresses, *self._kinds, key % self._experts.count)

    def close(self) -> None:
        """Stop the thread."""
        self._pool.shutdown()

    def _wait(self, slot: int) -> None:
        if loading := self._loading.pop(slot, None):
            loading.result()

    def _fill(self, key: int, slot: int) -> None:
        layer, expert = divmod(key, self._experts.count)
        for tensor, kind, offset in zip(self._tensors(layer, expert), self._kinds, self._offsets, strict=True):
            pack_tensor(tensor, kind, self._address(slot) + offset)

    def _address(self, slot: int) -> int:
        return int(self._first + slot * self.expert_bytes)

    def _tensors(self, layer: int, expert: int) -> list[RawTensor]:
        return [self._weights.tensors[expert_name(layer, part, expert)] for part in FFN_PARTS]

    def _check(self, weight_type: WeightType) -> None:
        for layer in range(self._experts.first_layer, self._weights.config.layers):
            for expert in range(self._experts.count):
                if [packed_kind(each, weight_type) for each in self._tensors(layer, expert)] != self._kinds:
                    raise InvalidModel(
                        f"{self._weights.path.name}: the experts of layer {layer} are encoded otherwise than those of "
                        f"layer {self._experts.first_layer}, and slots of the expert cache are equal",
                        hint="Serve it without an expert cache, or quantise it with one type",
                    )
