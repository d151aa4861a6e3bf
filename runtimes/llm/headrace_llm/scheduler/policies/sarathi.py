"""Stall-free chunked prefill (Sarathi-Serve, OSDI'24, section 4): the default.

All decodes first, then the prompts in computation, then new ones, in chunks within the budget. A running answer is
never paused: a long prompt delays its next token by one step of at most the budget.

Chunks that do not finish a prompt end at multiples of `ALIGNMENT`: the kernels compute that many rows in one tile, and
the next chunk begins at a block, where the prefix cache may have what another sequence has computed meanwhile.
"""

from __future__ import annotations

from headrace_llm.scheduler.core import Step
from headrace_llm.sequence import Sequence

ALIGNMENT = 32


def plan(step: Step) -> None:
    """Add decodes, then chunks."""
    step.decode()
    for sequence in step.prefilling:
        step.compute(sequence, _limit(step, sequence))
    while step.left > 0 and (admitted := step.admit()):
        step.compute(admitted, _limit(step, admitted))


def _limit(step: Step, sequence: Sequence) -> int:
    """Return the length of a chunk. The first of a step is not empty, so that prompts progress beside any answers."""
    if sequence.pending <= step.left:
        return sequence.pending
    aligned = (sequence.computed + step.left) // ALIGNMENT * ALIGNMENT - sequence.computed
    return aligned if aligned > 0 or step.prefills else step.left
