"""Packing of a model's weights for the native kernels: one position-independent buffer.

The buffer is the caller's memory, so that another process can map the same weights. Layout: `packed.h`. Quantised
weights stay quantised; their values are kept exactly, or up to the rounding of combined scales to float16 (Q2_K to
Q6_K, IQ4_XS).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.errors import CannotStart, InvalidModel
from headrace_models.config import DecoderConfig
from headrace_models.native.library import native
from headrace_models.weights import (
    FFN_PARTS,
    ModelWeights,
    RawTensor,
    expert_name,
    is_expert,
    release_file_pages,
    tensor_shapes,
)

MAGIC, VERSION, ALIGNMENT = b"HRWEIGHT", 1, 64
_HEADER = struct.Struct("<8sIIQ32s8x")
_ENTRY = struct.Struct("<IIII QQ")
_F32, _VECTOR = 0, 8
"""Kinds of packed.h."""


class WeightType(StrEnum):
    """How weights are held."""

    STORED = "stored"
    """As in the file: quantised ones quantised, floats in their type."""
    FLOAT32 = "float32"
    """Decoded to float32: the exact path."""


class InvalidPackedWeights(InvalidModel):
    """Packed weights are damaged, or of another model or version."""

    reason = "InvalidPackedWeights"


@dataclass(frozen=True, slots=True)
class _Slot:
    tensor: RawTensor
    kind: int
    rows: int
    cols: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Packing:
    """The plan of a packed buffer: `nbytes` is its size, `fill` writes it."""

    config: DecoderConfig
    slots: tuple[_Slot, ...]
    nbytes: int

    @classmethod
    def of(cls, weights: ModelWeights, weight_type: WeightType = WeightType.STORED, *, experts: bool = True) -> Packing:
        """Lay out the weights of a model. `experts`: whether those of its mixtures are among them."""
        order = [name for name in slot_names(weights.config) if experts or not is_expert(name)]
        slots, offset = [], _aligned(_HEADER.size + len(order) * _ENTRY.size)
        for name in order:
            tensor = weights.tensors[name]
            vector = len(tensor.shape) == 1
            rows, cols = (1, tensor.shape[0]) if vector else tensor.shape
            kind = packed_kind(tensor, weight_type)
            nbytes = native().headrace_tensor_bytes(kind, rows, cols)
            slots.append(_Slot(tensor, kind, rows, cols, offset, nbytes))
            offset += nbytes
        return cls(weights.config, tuple(slots), offset)

    def fill(self, into: memoryview, threads: int, progress: Callable[[int], None] = lambda _: None) -> None:
        """Pack the weights into writable memory of at least `nbytes`, at an address aligned to 64 bytes.

        `progress` gets a percentage.
        """
        out = _bytes_of(into)
        if len(out) < self.nbytes:
            raise ValueError(f"the packed weights need {self.nbytes} bytes, and the memory has {len(out)}")
        header = _HEADER.pack(MAGIC, VERSION, len(self.slots), self.nbytes, config_digest(self.config))
        entries = (_ENTRY.pack(s.kind, s.rows, s.cols, 0, s.offset, s.nbytes) for s in self.slots)
        table = np.frombuffer(header + b"".join(entries), dtype=np.uint8)
        out[: len(table)] = table
        with ThreadPoolExecutor(threads) as pool:
            largest_first = sorted(self.slots, key=lambda slot: -slot.nbytes)
            done = 0
            for slot, _ in zip(
                largest_first,
                pool.map(
                    lambda each: pack_tensor(each.tensor, each.kind, out.ctypes.data + each.offset), largest_first
                ),
                strict=True,
            ):
                done += slot.nbytes
                progress(100 * done // self.nbytes)
        release_file_pages(slot.tensor for slot in self.slots)  # else the process holds the weights twice


class Packer(Protocol):
    """Packs weights: `pack`, or into memory that outlives the process (`headrace_models.kept_weights`)."""

    def __call__(
        self, weights: ModelWeights, *, threads: int, weight_type: WeightType, progress: Callable[[int], None]
    ) -> memoryview:
        """Return the packed weights; `progress` gets a percentage."""


def pack(
    weights: ModelWeights,
    *,
    threads: int,
    weight_type: WeightType = WeightType.STORED,
    progress: Callable[[int], None] = lambda _: None,
    experts: bool = True,
) -> memoryview:
    """Return the packed weights in new memory. `experts`: whether those of its mixtures are among them."""
    packing = Packing.of(weights, weight_type, experts=experts)
    try:
        memory = np.empty(packing.nbytes + ALIGNMENT, dtype=np.uint8)
    except MemoryError as error:
        raise CannotStart(
            f"the weights of {packing.nbytes / 2**30:.1f} GiB do not fit into memory",
            hint="Give the replica more memory, or serve a smaller model",
        ) from error
    first = -memory.ctypes.data % ALIGNMENT
    view = memory[first : first + packing.nbytes]
    packing.fill(view.data, threads, progress)
    return view.data


def packed_kind(tensor: RawTensor, weight_type: WeightType) -> int:
    """Return the kind of packed.h in which a tensor is held."""
    if len(tensor.shape) == 1:
        return _VECTOR
    # The gate of experts stays exact: its rounding would choose other experts.
    exact = weight_type is WeightType.FLOAT32 or tensor.name.endswith("ffn_gate_inp.weight")
    kind: int = _F32 if exact else native().headrace_kind(tensor.type)
    return kind


def pack_tensor(tensor: RawTensor, kind: int, address: int) -> None:
    """Pack one tensor to an address aligned to 64 bytes. Raises InvalidPackedWeights."""
    data = np.frombuffer(tensor.data, dtype=np.uint8)
    order = None if tensor.row_order is None else np.ascontiguousarray(tensor.row_order, dtype=np.int32)
    rows, cols = (1, tensor.shape[0]) if len(tensor.shape) == 1 else tensor.shape
    if kind == _VECTOR and order is not None:
        rows, cols = cols, 1  # the elements of a vector are its rows, and they have an order
    failed = native().headrace_pack(
        tensor.type,
        data.ctypes.data,
        rows,
        cols,
        None if order is None else order.ctypes.data,
        kind,
        address,
    )
    if failed:
        raise _invalid(f"{tensor.name} of type {tensor.type.name} cannot be packed")


def check_packed(packed: memoryview, config: DecoderConfig) -> None:
    """Check the header of packed weights. Raises InvalidPackedWeights. The library checks the tensors."""
    if len(packed) < _HEADER.size:
        raise _invalid(f"they have {len(packed)} bytes, less than a header")
    magic, version, _, nbytes, digest = _HEADER.unpack_from(packed)
    if magic != MAGIC:
        raise _invalid("they do not begin with HRWEIGHT")
    if version != VERSION:
        raise _invalid(f"their version is {version}, and {VERSION} is needed")
    if len(packed) < nbytes:
        raise _invalid(f"they have {len(packed)} of {nbytes} bytes: they were cut")
    if digest != config_digest(config):
        raise _invalid("they are of a model with another configuration")


def config_digest(config: DecoderConfig) -> bytes:
    """Return 32 bytes that differ when a value of the configuration does."""
    return hashlib.sha256(repr(astuple(config)).encode()).digest()


def slot_names(config: DecoderConfig) -> list[str]:
    """Return the names of the tensors in the order of the buffer, which `Model::bind` of model.cpp reads."""
    return list(_slot_names(config))


def _slot_names(config: DecoderConfig) -> Iterator[str]:
    yield "token_embd.weight"
    if not config.tied:
        yield "output.weight"
    yield "output_norm.weight"
    present = tensor_shapes(config)
    layer = (
        *("attn_norm.weight", "attn_q.weight", "attn_k.weight", "attn_v.weight"),
        *("attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_q_norm.weight", "attn_k_norm.weight"),
        *("attn_output.weight", "post_attention_norm.weight", "ffn_norm.weight"),
        *("ffn_gate_inp.weight", "exp_probs_b.bias", "ffn_gate_inp_shexp.weight"),
        *("ffn_gate_shexp.weight", "ffn_up_shexp.weight", "ffn_down_shexp.weight"),
        *("ffn_gate.weight", "ffn_up.weight", "ffn_down.weight", "post_ffw_norm.weight"),
    )
    for index in range(config.layers):
        yield from (name for each in layer if (name := f"blk.{index}.{each}") in present)
        if experts := config.layer_experts(index):
            yield from (expert_name(index, part, expert) for expert in range(experts.count) for part in FFN_PARTS)


def _bytes_of(memory: memoryview) -> NDArray[np.uint8]:
    return np.frombuffer(memory, dtype=np.uint8)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _invalid(why: str) -> InvalidPackedWeights:
    return InvalidPackedWeights(f"the packed weights cannot be used: {why}", hint="Pack the model again")
