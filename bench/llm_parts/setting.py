"""What all parts of the LLM bench share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

THREADS = 2
"""Of each engine."""
NICENESS = -15


@dataclass(frozen=True, slots=True)
class Setting:
    """The model and how to measure."""

    file: Path
    """The example's model, SmolLM2-135M, as shipped (Q4_1)."""
    directory: Path
    """Its weights in bfloat16, for transformers and vLLM."""
    repeats: int
    exclusive: bool
    """Whether the timed sections of the decoder part run at real-time priority."""


@contextmanager
def before_others() -> Iterator[None]:
    """Let the processes of this session go before the machine's other jobs (needs root).

    Linux shares the cores between sessions (autogroup); the niceness of a process counts within its session only.
    """
    group = Path("/proc/self/autogroup")
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    if group.exists():
        group.write_text(str(NICENESS))
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        if group.exists():
            group.write_text("0")
