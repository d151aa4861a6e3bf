"""Reader of GGUF files: header, metadata and the place of each tensor. The `gguf` library takes two seconds for a
file that this reader reads in a tenth of a second, and a fast start matters here.

A file is untrusted input: every length is checked against the rest of the file, and every error is an InvalidModel that
names the place. Layout: the GGUF specification of ggml, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from headrace.errors import InvalidModel
from headrace_models.encodings import ENCODINGS, TensorType, encoding_name

T = TypeVar("T")

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ENTRIES = 1_000_000
"""Bound of metadata, tensors and nesting: far above any model, and a bound for a broken count."""
MAX_DIMENSIONS = 4

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")
"""Of a string, before its bytes."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. `shape` is outermost first, as in torch (the file stores it innermost first)."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    """From the start of the file."""
    nbytes: int


@dataclass(frozen=True, slots=True)
class _Head:
    """The file's entry of one tensor, unchecked. `start`: from the first byte of all tensors."""

    shape: tuple[int, ...]
    encoding: int
    start: int


class GGUFFile:
    """An open GGUF file: `metadata`, `tensors` by name, and the bytes of each tensor without a copy.

    The constructor checks the metadata; the first use of `tensors` checks them. So the architecture can be refused
    first: the encoding of an unsupported model does not matter.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                # Private and writable, although nothing writes: torch does not accept read-only memory.
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            why = error.strerror or str(error)
            raise InvalidModel(f"cannot read {path}: {why}", hint="Check the path and who may read it") from error
        except ValueError as error:  # mmap's, of an empty file
            raise InvalidModel(f"cannot read {path}: {error}", hint="Is it a GGUF file?") from error
        self.path = path
        self._at = 0
        try:
            self.metadata, self._heads = self._parse()
        except (struct.error, UnicodeDecodeError) as error:
            raise self._invalid(f"broken at byte {self._at}: {error}") from error

    def data(self, tensor: TensorInfo) -> memoryview:
        """Return the tensor's bytes as they are in the file."""
        return memoryview(self._map)[tensor.offset : tensor.offset + tensor.nbytes]

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Return the tensors by name. Raises InvalidModel for an encoding that cannot be read, and a broken tensor."""
        unread = {name: head.encoding for name, head in self._heads.items() if head.encoding not in ENCODINGS}
        if unread:
            names = ", ".join(encoding_name(kind) for kind in sorted(set(unread.values())))
            raise InvalidModel(
                f"{self.path.name} is quantised as {names}, which is not supported (tensor {next(iter(unread))})",
                hint=f"Quantise the model to one of: {', '.join(TensorType.__members__)}",
            )
        return {name: self._located(name, head) for name, head in self._heads.items()}

    def _parse(self) -> tuple[dict[str, Any], dict[str, _Head]]:
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
        metadata = self._named("key", metadata_count, lambda: self._value(self._scalar("<I")))
        heads = self._named("tensor", tensor_count, self._head)
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0:
            raise self._invalid("general.alignment is not a positive number")
        self._data = -(-self._at // alignment) * alignment
        return metadata, heads

    def _named(self, kind: str, count: int, read: Callable[[], T]) -> dict[str, T]:
        """Return `count` entries by name; each name precedes what `read` reads."""
        entries: dict[str, T] = {}
        for _ in range(count):
            name = self._string()
            if name in entries:
                raise self._invalid(f"it has the {kind} {name} twice", hint="Convert the model again")
            entries[name] = read()
        return entries

    def _head(self) -> _Head:
        dimensions = self._scalar("<I")
        if dimensions > MAX_DIMENSIONS:
            raise self._invalid(f"a tensor at byte {self._at} has {dimensions} dimensions")
        shape = tuple(self._scalar("<Q") for _ in range(dimensions))[::-1]
        return _Head(shape, self._scalar("<I"), self._scalar("<Q"))

    def _located(self, name: str, head: _Head) -> TensorInfo:
        kind, shape, offset = TensorType(head.encoding), head.shape, self._data + head.start
        encoding, values = ENCODINGS[kind], math.prod(shape)
        if values == 0:
            raise self._invalid(f"tensor {name} of shape {shape} is empty")
        if values % encoding.block_values or (shape and shape[-1] % encoding.block_values):
            raise self._invalid(f"tensor {name} of shape {shape} is not made of whole blocks")
        nbytes = values // encoding.block_values * encoding.block_bytes
        if offset + nbytes > len(self._map):
            raise self._invalid(
                f"tensor {name} ends at byte {offset + nbytes}, the file at {len(self._map)}: it was cut"
            )
        return TensorInfo(name, shape, kind, offset, nbytes)

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
            return self._strings(count)
        return [self._value(element, depth + 1) for _ in range(count)]

    def _bounded(self, count: int, least_bytes: int) -> int:
        """Return the count if the rest of the file can hold that many elements."""
        if count * least_bytes > len(self._map) - self._at:
            raise self._invalid(f"an array at byte {self._at} claims {count} elements: the file was cut")
        return count

    def _strings(self, count: int) -> list[str]:
        """Return consecutive strings; `_string` in one loop, because a vocabulary has a hundred thousand."""
        content, at, end = self._map, self._at, len(self._map)
        texts = []
        try:
            for _ in range(count):
                (size,) = _LENGTH.unpack_from(content, at)
                at += _LENGTH.size
                if size > end - at:
                    raise self._cut(at)
                at += size
                texts.append(content[at - size : at].decode())
        finally:
            self._at = at
        return texts

    def _string(self) -> str:
        return self._take(self._scalar("<Q")).decode()

    def _scalar(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self._map, self._at)
        self._at += struct.calcsize(layout)
        return value

    def _take(self, size: int) -> bytes:
        if size > len(self._map) - self._at:
            raise self._cut(self._at)
        self._at += size
        return self._map[self._at - size : self._at]

    def _cut(self, at: int) -> InvalidModel:
        return self._invalid(f"it ends within a value at byte {at}: the file was cut")

    def _invalid(self, why: str, *, hint: str = "Fetch the model again") -> InvalidModel:
        return InvalidModel(f"{self.path.name} cannot be read as GGUF: {why}", hint=hint)
