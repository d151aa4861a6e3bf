"""The decoder on our native kernels; implements `headrace_models.decoder.Decoder` without torch.

A step is one call of the library, which releases the GIL. Exactness: every element of every result is computed by the
same sequence of operations whatever else the batch has, so chunked, batched and resumed runs are bit-identical to runs
alone; the number of threads and the layout of blocks change nothing either. With quantised weights, activations are
rounded to 16 bits in groups of 32 and products are exact integers; with `WeightType.FLOAT32` nothing is rounded below
float32.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from headrace_models.adapters import Adapter
from headrace_models.config import Activation, DecoderConfig
from headrace_models.decoder import Batch, Floats, KVSpan
from headrace_models.expert_source import ExpertSource, Routing
from headrace_models.experts import ExpertsConfig, Scores
from headrace_models.kv_memory import cannot_fit, check_cache_fits, untouched
from headrace_models.native.library import (
    ERROR_BYTES,
    EXPERTS_NEEDED,
    NativeBatch,
    NativeCache,
    NativeConfig,
    NativeExpert,
    NativeRouting,
    isa,
    native,
)
from headrace_models.native.lora import PackedAdapter
from headrace_models.native.packing import InvalidPackedWeights, Packer, WeightType, check_packed, pack
from headrace_models.weights import ModelWeights

_SEGMENT_FIELDS = 5


class NativeDecoder:
    """The weights and the cache. Not thread-safe: one thread calls it.

    Args:
        packed: the weights (`native.packing`), aligned to 64 bytes; mapped or shared memory is fine.
        config: of the model.
        threads: that compute, the caller included.
        half_cache: whether the KV cache is float16, else float32.
        experts: gives the experts, which `packed` then does not have; None: it has them.
    """

    def __init__(
        self,
        packed: memoryview,
        config: DecoderConfig,
        *,
        threads: int,
        half_cache: bool,
        experts: ExpertSource | None = None,
    ) -> None:
        check_packed(packed, config)
        self.config = config
        self.kernels = isa()
        self._half = half_cache
        self._packed = np.frombuffer(packed, dtype=np.uint8)
        self.weight_bytes = len(self._packed)
        self.kv_bytes_per_token = 2 * config.layers * config.kv_heads * config.head_dim * self._element_bytes
        self._error = ctypes.create_string_buffer(ERROR_BYTES)
        self._experts = experts
        self._arguments = _NativeArguments(config, given_experts=experts is not None)
        self._handle = native().headrace_open(
            self._arguments.config, self._packed.ctypes.data, self.weight_bytes, threads, self._error, ERROR_BYTES
        )
        if not self._handle:
            raise InvalidPackedWeights(
                f"the packed weights cannot be used: {self._message()}", hint="Pack the model again"
            )
        self._cache: NDArray[np.uint8] = np.empty((0, 0, 0), dtype=np.uint8)
        self._block_tokens = 0
        self._adapters: dict[int, PackedAdapter] = {}
        self._logits: Floats = np.empty(0, dtype=np.float32)

    @classmethod
    def load(
        cls,
        weights: ModelWeights,
        *,
        threads: int,
        progress: Callable[[int], None],
        weight_type: WeightType,
        packer: Packer = pack,
        experts: ExpertSource | None = None,
    ) -> Self:
        """Pack the weights and open them, by default in memory of this process. `progress` gets a percentage.

        With `experts`, their matrices are not packed, and this process has the memory of the others.
        """
        if experts is None:
            packed = packer(weights, threads=threads, weight_type=weight_type, progress=progress)
        else:
            packed = pack(weights, threads=threads, weight_type=weight_type, progress=progress, experts=False)
        half = weight_type is WeightType.STORED and any(
            tensor.type.name != "F32" for tensor in weights.tensors.values() if len(tensor.shape) > 1
        )
        return cls(packed, weights.config, threads=threads, half_cache=half, experts=experts)

    @property
    def _element_bytes(self) -> int:
        return 2 if self._half else 4

    def allocate_cache(self, blocks: int, block_tokens: int) -> None:
        """Allocate the KV cache. Memory is used when a block is first written. Raises CannotStart if it cannot fit."""
        block_bytes = native().headrace_block_bytes(self._arguments.config, block_tokens, self._half)
        nbytes = self.config.layers * blocks * block_bytes
        check_cache_fits(nbytes, blocks * block_tokens, self.weight_bytes)
        try:
            memory = untouched(nbytes)
        except (OSError, OverflowError) as error:
            raise cannot_fit(nbytes, blocks * block_tokens) from error
        self._cache = np.frombuffer(memory, dtype=np.uint8).reshape(self.config.layers, blocks, block_bytes)
        self._block_tokens = block_tokens
        arguments = NativeCache(self._cache.ctypes.data, nbytes, blocks, block_tokens, self._half)
        self._check(native().headrace_allocate(self._handle, arguments, self._error, ERROR_BYTES))

    def step(self, batch: Batch) -> Floats:
        """Compute a batch and return logits: [len(outputs), vocabulary]. Raises ValueError for an invalid batch."""
        shape = (len(batch.outputs), self.config.vocabulary)
        if self._logits.size < math.prod(shape):
            self._logits = np.empty(math.prod(shape), dtype=np.float32)
        logits = self._logits[: math.prod(shape)].reshape(shape)
        self._compute(batch, np.array(batch.outputs, dtype=np.int32), logits)
        return logits

    def embed(self, batch: Batch) -> Floats:
        """Compute a batch and return the normed last hidden states of all its tokens: [tokens, width]."""
        hidden = np.empty((len(batch.tokens), self.config.width), dtype=np.float32)
        self._compute(batch, None, hidden)
        return hidden

    def set_adapter(self, index: int, adapter: Adapter | None) -> None:
        """Set what `Segment.adapter` = `index` (from 1) means; None frees it. Between two steps only."""
        packed = None if adapter is None else PackedAdapter(adapter, self.config.layers)
        arguments = None if packed is None else packed.arguments
        self._check(native().headrace_set_adapter(self._handle, index, arguments, self._error, ERROR_BYTES))
        self._adapters.pop(index, None)  # only now: the library held its addresses
        if packed is not None:
            self._adapters[index] = packed

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy blocks (source, destination) within the cache, in this order."""
        for source, destination in pairs:
            self._cache[:, destination] = self._cache[:, source]

    def export_blocks(self, blocks: Sequence[int]) -> KVSpan:
        """Return the content of blocks."""
        return KVSpan(self._block_tokens, tuple(self._cache[:, block].tobytes() for block in blocks))

    def import_blocks(self, span: KVSpan, blocks: Sequence[int]) -> None:
        """Write the content of exported blocks to these. Raises ValueError if the layouts differ."""
        layers, _, block_bytes = self._cache.shape
        if span.block_tokens != self._block_tokens or any(len(each) != layers * block_bytes for each in span.blocks):
            raise ValueError("the blocks are of another model or layout")
        for block, content in zip(blocks, span.blocks, strict=True):
            self._cache[:, block] = np.frombuffer(content, dtype=np.uint8).reshape(layers, block_bytes)

    def counters(self) -> Mapping[str, int]:
        """Return the counters of what gives the experts."""
        return {} if self._experts is None else self._experts.counters()

    def close(self) -> None:
        """Free the memory and stop the threads."""
        if self._experts is not None:
            self._experts.close()
        if self._handle:
            native().headrace_close(self._handle)
            self._handle = None
        self._cache = np.empty((0, 0, 0), dtype=np.uint8)
        self._packed = np.empty(0, dtype=np.uint8)

    def _compute(self, batch: Batch, outputs: NDArray[np.int32] | None, out: Floats) -> None:
        if not self._block_tokens:
            raise ValueError("no cache is allocated")
        tokens = np.array(batch.tokens, dtype=np.int32)
        tables = [s.blocks[: -(-(s.start + s.count) // self._block_tokens)] for s in batch.segments]
        blocks = np.fromiter(chain.from_iterable(tables), dtype=np.int32)
        segments = np.empty((len(tables), _SEGMENT_FIELDS), dtype=np.int32)
        first = 0
        for row, table, segment in zip(segments, tables, batch.segments, strict=True):
            row[:] = first, len(table), segment.start, segment.count, segment.adapter
            first += len(table)
        arguments = NativeBatch(
            tokens.ctypes.data,
            segments.ctypes.data,
            blocks.ctypes.data,
            None if outputs is None else outputs.ctypes.data,
            len(tokens),
            len(segments),
            len(blocks),
            0 if outputs is None else len(outputs),
        )
        status = native().headrace_step(self._handle, arguments, out.ctypes.data, self._error, ERROR_BYTES)
        while status == EXPERTS_NEEDED:
            status = self._give_experts()
        self._check(status)

    def _give_experts(self) -> int:
        """Give the library the experts of the layer that it waits at; return its status."""
        experts = self.config.experts
        assert self._experts is not None
        assert experts is not None
        found = NativeRouting()
        native().headrace_routing(self._handle, found)
        shape = (found.tokens, experts.used)

        def look_ahead(layer: int) -> Floats:
            scores = np.empty((found.tokens, experts.count), dtype=np.float32)
            self._check(native().headrace_look_ahead(self._handle, layer, scores.ctypes.data, self._error, ERROR_BYTES))
            return scores

        routing = Routing(
            found.layer, _view(found.experts, ctypes.c_int32, shape), _view(found.weights, ctypes.c_float, shape)
        )
        status = EXPERTS_NEEDED
        for group in self._experts.groups(routing, look_ahead):
            if status != EXPERTS_NEEDED:
                break
            array = (NativeExpert * len(group))(*group)
            status = native().headrace_resume(self._handle, array, len(group), self._error, ERROR_BYTES)
        return status

    def _check(self, failed: int) -> None:
        if failed:
            raise ValueError(self._message())

    def _message(self) -> str:
        return self._error.value.decode(errors="replace")


def _view(address: int, kind: type[ctypes.c_int32 | ctypes.c_float], shape: tuple[int, int]) -> NDArray[Any]:
    """Return an array of the library's memory."""
    return np.ctypeslib.as_array((kind * math.prod(shape)).from_address(address)).reshape(shape)


class _NativeArguments:
    """The configuration as the library reads it, with the arrays that it points to."""

    def __init__(self, config: DecoderConfig, *, given_experts: bool) -> None:
        theta = config.window_rope_theta or config.rope_theta
        factors = np.array(config.rope_factors or 1.0, dtype=np.float32)
        self._frequencies = _frequencies(config, config.rope_theta) / factors * np.float32(config.rope_scale)
        self._window_frequencies = _frequencies(config, theta)
        self._windows = np.array(config.windows or (0,) * config.layers, dtype=np.int32)
        self.config = NativeConfig(
            layers=config.layers,
            width=config.width,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            ffn_width=config.ffn_width,
            vocabulary=config.vocabulary,
            qkv_bias=config.qkv_bias,
            qk_norm=config.qk_norm,
            post_norms=config.post_norms,
            gelu=config.activation is Activation.GELU_TANH,
            tied=config.tied,
            norm_epsilon=config.norm_epsilon,
            embedding_scale=config.embedding_scale,
            score_factor=config.score_factor,
            frequencies=self._frequencies.ctypes.data,
            window_frequencies=self._window_frequencies.ctypes.data,
            windows=self._windows.ctypes.data,
            wide_qk_norm=config.wide_qk_norm,
            given_experts=given_experts,
            **_expert_arguments(config.experts),
        )


def _expert_arguments(experts: ExpertsConfig | None) -> dict[str, float]:
    if experts is None:
        return {}
    return {
        "experts": experts.count,
        "experts_used": experts.used,
        "expert_width": experts.width,
        "shared_width": experts.shared_width,
        "shared_gate": experts.shared_gate,
        "sigmoid": experts.scores is Scores.SIGMOID,
        "score_bias": experts.score_bias,
        "normalised": experts.normalised,
        "first_experts": experts.first_layer,
        "expert_scale": experts.scale,
    }


def _frequencies(config: DecoderConfig, theta: float) -> NDArray[np.float32]:
    """Return the angles per position: [head_dim / 2]."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    powers: NDArray[Any] = np.float32(theta) ** exponents
    return np.float32(1.0) / powers.astype(np.float32)
