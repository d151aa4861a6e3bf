"""Reader of safetensors files: the place of each tensor, without a copy.

A file is untrusted input: the header is bounded, and offsets are checked against the shapes, the file and one another.
Layout: the safetensors format description (eight bytes of header length, JSON, tensors without gaps).
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.errors import InvalidModel
from headrace_models.encodings import ENCODINGS, TensorType
from headrace_models.json_file import parse_object

MAX_HEADER_BYTES = 100_000_000
"""The limit of the format's own library."""
MAX_DIMENSIONS = 4
TYPES: Mapping[str, TensorType] = {"F32": TensorType.F32, "F16": TensorType.F16, "BF16": TensorType.BF16}
"""The encodings that are read, by their names in the header."""
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor. `shape`: outermost first."""

    shape: tuple[int, ...]
    type: TensorType
    data: memoryview


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors by name. Raises InvalidModel for a broken file, or for a type that is not in `TYPES`."""
    try:
        with path.open("rb") as file:
            # Private and writable, although nothing writes: torch does not accept read-only memory.
            area = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except OSError as error:
        why = error.strerror or str(error)
        raise InvalidModel(f"cannot read {path}: {why}", hint="Check the path and who may read it") from error
    except ValueError as error:  # mmap's, of an empty file
        raise InvalidModel(f"cannot read {path}: {error}", hint="Is it a safetensors file?") from error
    if len(area) < _LENGTH.size:
        raise _invalid(path, "it has no header")
    (length,) = _LENGTH.unpack_from(area)
    if length > min(MAX_HEADER_BYTES, len(area) - _LENGTH.size):
        raise _invalid(path, f"it claims a header of {length} bytes: the file was cut, or is of another format")
    start = _LENGTH.size + length
    try:
        text = bytes(area[_LENGTH.size : start]).decode()
    except UnicodeDecodeError as error:
        raise _invalid(path, f"its header is no text: {error}") from error
    entries = parse_object(text, path.name)
    entries.pop("__metadata__", None)
    data = area[start:]
    located = {name: _located(path, name, entry, data) for name, entry in entries.items()}
    end, last = 0, "its header"
    for name in sorted(located, key=lambda each: _span(entries[each])):
        begin, stop = _span(entries[name])
        if begin < end:
            raise _invalid(path, f"the tensors {last} and {name} overlap")
        end, last = stop, name
    return located


def _span(entry: Mapping[str, Any]) -> tuple[int, int]:
    begin, end = entry["data_offsets"]
    return begin, end


def _located(path: Path, name: str, entry: object, data: memoryview) -> StoredTensor:
    match entry:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if all(
            type(size) is int and size > 0 for size in shape
        ):
            pass
        case _:
            raise _invalid(path, f"the entry of tensor {name} is broken: {str(entry)[:80]}")
    if kind not in TYPES:
        raise InvalidModel(
            f"{path.name} has tensor {name} in {kind[:20]}, which is not supported",
            hint=f"Convert the model to one of: {', '.join(TYPES)}",
        )
    if len(shape) > MAX_DIMENSIONS:
        raise _invalid(path, f"tensor {name} has {len(shape)} dimensions")
    if not 0 <= begin <= end <= len(data):
        raise _invalid(path, f"tensor {name} lies at {begin} to {end} of {len(data)} bytes: the file was cut")
    size = math.prod(shape) * ENCODINGS[TYPES[kind]].block_bytes
    if end - begin != size:
        raise _invalid(path, f"tensor {name} of shape {shape} in {kind} has {end - begin} bytes instead of {size}")
    return StoredTensor(tuple(shape), TYPES[kind], data[begin:end])


def _invalid(path: Path, why: str) -> InvalidModel:
    return InvalidModel(f"{path.name} cannot be read as safetensors: {why}", hint="Fetch the model again")
