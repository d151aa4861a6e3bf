"""Reading GGUF: header, metadata and where each tensor lies. Our own reader, because starting fast is our business: the
`gguf` library takes two seconds for the file that this one reads in a tenth.

A file comes from outside, so nothing in it is believed: every length is checked against what is left, and every fault
is an InvalidModel that says where. Layout: the GGUF specification of ggml, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from headrace.errors import InvalidModel

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ENTRIES = 1_000_000
"""Of metadata, tensors and nesting alike: far above any model, and a bound for a broken count."""
MAX_DIMENSIONS = 4

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


class TensorType(IntEnum):
    """The encodings that we can read."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q8_0 = 8
    BF16 = 30


@dataclass(frozen=True, slots=True)
class Encoding:
    """How many bytes hold how many values."""

    block_values: int
    block_bytes: int


ENCODINGS = {
    TensorType.F32: Encoding(1, 4),
    TensorType.F16: Encoding(1, 2),
    TensorType.BF16: Encoding(1, 2),
    TensorType.Q4_0: Encoding(32, 18),
    TensorType.Q4_1: Encoding(32, 20),
    TensorType.Q8_0: Encoding(32, 34),
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. `shape` is outermost first, as torch has it (the file stores it innermost first)."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    """From the start of the file."""
    nbytes: int


class GGUFFile:
    """An open GGUF file: `metadata`, `tensors` by name, and the bytes of each tensor without a copy."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                # Private and writable, though nobody writes: torch takes no memory that it could not write to.
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise InvalidModel(f"cannot read {path}: {error}", hint="Is it a GGUF file?") from error
        self.path = path
        self._at = 0
        try:
            self.metadata, self.tensors = self._parse()
        except (struct.error, UnicodeDecodeError) as error:
            raise self._invalid(f"broken at byte {self._at}: {error}") from error

    def data(self, tensor: TensorInfo) -> memoryview:
        """Return the tensor's bytes as they are in the file."""
        return memoryview(self._map)[tensor.offset : tensor.offset + tensor.nbytes]

    def _parse(self) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
        if self._take(4) != MAGIC:
            raise self._invalid(
                "it does not begin with GGUF", hint="A GGUF file is needed: check the path, or spec.model.source.uri"
            )
        version = self._scalar("<I")
        if version not in VERSIONS:
            known = " or ".join(map(str, VERSIONS))
            raise self._invalid(f"version {version} is not supported", hint=f"Convert the model to version {known}")
        tensor_count, metadata_count = self._scalar("<Q"), self._scalar("<Q")
        if max(tensor_count, metadata_count) > MAX_ENTRIES:
            raise self._invalid(f"it claims {tensor_count} tensors and {metadata_count} entries")
        metadata = {self._string(): self._value(self._scalar("<I")) for _ in range(metadata_count)}
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0:
            raise self._invalid("general.alignment is not a positive number")
        heads = [self._tensor_head() for _ in range(tensor_count)]
        start = -(-self._at // alignment) * alignment
        return metadata, {name: self._located(name, shape, kind, start + at) for name, shape, kind, at in heads}

    def _tensor_head(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        dimensions = self._scalar("<I")
        if dimensions > MAX_DIMENSIONS:
            raise self._invalid(f"tensor {name} has {dimensions} dimensions")
        shape = tuple(self._scalar("<Q") for _ in range(dimensions))[::-1]
        return name, shape, self._scalar("<I"), self._scalar("<Q")

    def _located(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> TensorInfo:
        if kind not in TensorType.__members__.values():
            known = ", ".join(TensorType.__members__)
            raise self._invalid(
                f"tensor {name} has the encoding {kind}, which is not supported",
                hint=f"Quantise the model to one of: {known}",
            )
        encoding = ENCODINGS[TensorType(kind)]
        values = 1
        for size in shape:
            values *= size
        if values == 0:
            raise self._invalid(f"tensor {name} of shape {shape} is empty")
        if values % encoding.block_values or (shape and shape[-1] % encoding.block_values):
            raise self._invalid(f"tensor {name} of shape {shape} is not made of whole blocks")
        nbytes = values // encoding.block_values * encoding.block_bytes
        if offset + nbytes > len(self._map):
            raise self._invalid(
                f"tensor {name} ends at byte {offset + nbytes}, the file at {len(self._map)}: it was cut"
            )
        return TensorInfo(name, shape, TensorType(kind), offset, nbytes)

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY or depth > MAX_DIMENSIONS:
            raise self._invalid(f"metadata type {kind} at byte {self._at} is unknown")
        element, count = self._scalar("<I"), self._scalar("<Q")
        if element in _SCALARS:
            layout = struct.Struct(f"<{self._bounded(count, struct.calcsize(_SCALARS[element]))}{_SCALARS[element][1]}")
            return list(layout.unpack(self._take(layout.size)))
        self._bounded(count, 8)
        if element == _STRING:
            return [self._string() for _ in range(count)]
        return [self._value(element, depth + 1) for _ in range(count)]

    def _bounded(self, count: int, least_bytes: int) -> int:
        """Return the count if that many elements can be in what is left of the file."""
        if count * least_bytes > len(self._map) - self._at:
            raise self._invalid(f"an array at byte {self._at} claims {count} elements: the file was cut")
        return count

    def _string(self) -> str:
        return self._take(self._scalar("<Q")).decode()

    def _scalar(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self._map, self._at)
        self._at += struct.calcsize(layout)
        return value

    def _take(self, size: int) -> bytes:
        if size > len(self._map) - self._at:
            raise self._invalid(f"it ends within a value at byte {self._at}: the file was cut")
        self._at += size
        return self._map[self._at - size : self._at]

    def _invalid(self, why: str, *, hint: str = "Fetch the model again") -> InvalidModel:
        return InvalidModel(f"{self.path.name} cannot be read as GGUF: {why}", hint=hint)
