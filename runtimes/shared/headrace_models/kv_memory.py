"""Memory for a KV cache: checked against what the machine has, and allocated when it is first written."""

from __future__ import annotations

import contextlib
import logging
import mmap

from headrace.errors import CannotStart
from headrace_models.memory import read_memory

log = logging.getLogger(__name__)

_REMEDY = (
    "Lower spec.runtime.llm.maxModelLen or maxConcurrentRequests"
    " (headrace-llm: --max-model-len, --max-concurrent-requests)"
)


def check_cache_fits(nbytes: int, tokens: int, weight_bytes: int) -> None:
    """Raise CannotStart if a cache of this size can never fit; warn if it does not fit into what is available now."""
    memory, needed = read_memory(), weight_bytes + nbytes
    # Weights that do not fit by themselves are not an error of the cache: Kubernetes reports OOMKilled then.
    if memory.total is not None and weight_bytes <= memory.total < needed:
        raise cannot_fit(nbytes, tokens)
    if memory.available is not None and needed > memory.available:
        log.warning(
            "the KV cache of %.1f GiB, for %d tokens, and the weights need %.1f GiB when all of it is used, and %.1f"
            " GiB are available now. %s",
            nbytes / 2**30,
            tokens,
            needed / 2**30,
            memory.available / 2**30,
            _REMEDY,
        )


def cannot_fit(nbytes: int, tokens: int) -> CannotStart:
    """Return the error of a cache that does not fit."""
    return CannotStart(
        f"the KV cache of {nbytes / 2**30:.1f} GiB, for {tokens} tokens, does not fit into memory", hint=_REMEDY
    )


def untouched(nbytes: int) -> mmap.mmap:
    """Return zeros in pages that are allocated when first written: unused blocks cost no memory.

    Small pages: with huge ones a first short prompt would clear 240 MB of a cache of which it uses two.
    """
    area = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        area.madvise(mmap.MADV_NOHUGEPAGE)
    return area
