"""The alternative loader: BCC (Debian package `python3-bpfcc`) compiles the program at start, in about half a second.

For kernels or architectures that the precompiled object does not suit. BCC needs the headers of some kernel; where
those of the running one are not installed, the environment variable BCC_KERNEL_SOURCE names their folder, because the
program uses no kernel structure. PyPI's `bcc` is a lattice library and has no `BPF`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path

from headrace.bus.errors import EbpfUnavailable
from headrace_node.bpf.syscalls import BpfMap

SOURCE = Path(__file__).parent / "redirect.bpf.c"


def load(maps: Mapping[str, BpfMap]) -> int:
    """Compile and load the program with these maps; return its descriptor.

    Raises:
        EbpfUnavailable: BCC is not installed, has no kernel headers, or the kernel refuses the program.
    """
    flags = ["-DHEADRACE_BCC", *(f"-D{name}_FD={each.fd}" for name, each in maps.items())]
    try:
        bcc = importlib.import_module("bcc")
        compiled = bcc.BPF(text=SOURCE.read_bytes(), cflags=flags)
        return os.dup(compiled.load_func(b"redirect", bcc.BPF.SK_MSG).fd)
    except Exception as error:  # BCC raises plain exceptions
        raise EbpfUnavailable(
            f"BCC cannot load the eBPF program: {error}",
            hint="Install python3-bpfcc and kernel headers, or use the precompiled object",
        ) from error
