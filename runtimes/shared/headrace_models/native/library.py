"""The native library by ctypes: the functions of `api.cpp` and the structures of `abi.h`."""

from __future__ import annotations

import ctypes
import logging
import os
from ctypes import POINTER, c_char_p, c_float, c_int32, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path

from headrace.errors import CannotStart
from headrace_models.native.build import SOURCES, NoNativeLibrary, build, cache_folder, library_path

log = logging.getLogger(__name__)

ABI = 3
ERROR_BYTES = 512


class NativeConfig(ctypes.Structure):
    """`Config` of abi.h."""

    _fields_ = (
        *((name, c_int32) for name in ("layers", "width", "heads", "kv_heads", "head_dim", "ffn_width", "vocabulary")),
        *((name, c_int32) for name in ("qkv_bias", "qk_norm", "post_norms", "gelu", "tied")),
        *((name, c_float) for name in ("norm_epsilon", "embedding_scale", "score_factor")),
        *((name, c_void_p) for name in ("frequencies", "window_frequencies", "windows")),
        ("wide_qk_norm", c_int32),
        *((name, c_int32) for name in ("experts", "experts_used", "expert_width", "shared_width", "shared_gate")),
        *((name, c_int32) for name in ("sigmoid", "score_bias", "normalised", "first_experts", "given_experts")),
        ("expert_scale", c_float),
    )


class NativeExpert(ctypes.Structure):
    """`ExpertArgs` of abi.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("gate", "up", "down")),
        *((name, c_uint32) for name in ("gate_kind", "up_kind", "down_kind")),
        ("expert", c_int32),
    )


class NativeRouting(ctypes.Structure):
    """`RoutingArgs` of abi.h."""

    _fields_ = (("layer", c_int32), ("tokens", c_int32), ("experts", c_void_p), ("weights", c_void_p))


class NativeBatch(ctypes.Structure):
    """`BatchArgs` of abi.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("tokens", "segments", "blocks", "outputs")),
        *((name, c_int32) for name in ("token_count", "segment_count", "block_count", "output_count")),
    )


class NativeLora(ctypes.Structure):
    """`LoraArgs` of abi.h."""

    _fields_ = (("a", c_void_p), ("b", c_void_p), ("rank", c_int32))


class NativeCache(ctypes.Structure):
    """`CacheArgs` of abi.h."""

    _fields_ = (
        ("memory", c_void_p),
        ("bytes", c_uint64),
        ("blocks", c_int32),
        ("block_tokens", c_int32),
        ("half", c_int32),
    )


DONE, FAILED, EXPERTS_NEEDED = range(3)
"""`Status` of abi.h."""


@cache
def native() -> ctypes.CDLL:
    """Return the library, built into the user's cache if it is not there yet. Raises NoNativeLibrary, CannotStart."""
    library = _load(_built())
    found = library.headrace_abi()
    if found != ABI:
        raise NoNativeLibrary(f"the native library has interface {found}, and {ABI} is needed", hint="Build it again")
    _declare(library)
    if library.headrace_isa() is None:
        raise CannotStart(
            f"HEADRACE_ISA={os.environ.get('HEADRACE_ISA')} names no instruction set of this processor",
            hint="Unset it, or use avx512, avx2 or portable",
        )
    return library


def isa() -> str:
    """Return the instruction set of the kernels: avx512, avx2 or portable. Raises NoNativeLibrary, CannotStart."""
    name: bytes = native().headrace_isa()
    return name.decode()


def _built() -> Path:
    for folder in (SOURCES, cache_folder()):
        path = library_path(folder)
        if path.exists():
            return path
    log.info("compiling the native kernels")
    return build(cache_folder())


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NoNativeLibrary(f"the native library does not load: {error}", hint="Build it again") from error


def _declare(library: ctypes.CDLL) -> None:
    error = (c_void_p, c_int32)
    signatures: dict[str, tuple[object, tuple[object, ...]]] = {
        "isa": (c_char_p, ()),
        "kind": (c_uint32, (c_uint32,)),
        "tensor_bytes": (c_uint64, (c_uint32, c_uint32, c_uint32)),
        "pack": (c_int32, (c_uint32, c_void_p, c_uint32, c_uint32, c_void_p, c_uint32, c_void_p)),
        "open": (c_void_p, (POINTER(NativeConfig), c_void_p, c_uint64, c_int32, *error)),
        "block_bytes": (c_uint64, (POINTER(NativeConfig), c_int32, c_int32)),
        "allocate": (c_int32, (c_void_p, POINTER(NativeCache), *error)),
        "set_adapter": (c_int32, (c_void_p, c_int32, POINTER(NativeLora), *error)),
        "resume": (c_int32, (c_void_p, c_void_p, c_int32, *error)),
        "routing": (None, (c_void_p, POINTER(NativeRouting))),
        "look_ahead": (c_int32, (c_void_p, c_int32, c_void_p, *error)),
        "step": (c_int32, (c_void_p, POINTER(NativeBatch), c_void_p, *error)),
        "close": (None, (c_void_p,)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"headrace_{name}")
        function.restype, function.argtypes = result, arguments
