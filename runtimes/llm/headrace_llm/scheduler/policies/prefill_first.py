"""Prompts before answers (vLLM before chunked prefill, Orca's admission): a baseline.

While prompts wait and there is room, a step computes whole prompts and nothing else: the first token comes early, and
all running answers pause meanwhile.
"""

from __future__ import annotations

from headrace_llm.scheduler.core import Step


def plan(step: Step) -> None:
    """Add whole prompts up to the budget, at least one; if there are none, decodes.

    Only prompts that report log probabilities are computed in several steps (`MAX_REPORTED`).
    """
    for begun in step.prefilling:
        step.compute(begun, begun.pending)
    while step.left > 0 and (sequence := step.admit()):
        step.compute(sequence, sequence.pending)
    if not step.chunks:
        step.decode()
