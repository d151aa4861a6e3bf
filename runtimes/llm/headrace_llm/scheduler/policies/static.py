"""Static batching (FasterTransformer): a baseline.

A batch is admitted when the former one has ended, and nothing joins it: short answers wait for the longest.
"""

from __future__ import annotations

from headrace_llm.scheduler.core import Step


def plan(step: Step) -> None:
    """Add the whole prompts of a new batch if nothing runs, else decodes.

    Only prompts that report log probabilities are computed in several steps (`MAX_REPORTED`).
    """
    if not step.running:
        while sequence := step.admit():
            step.compute(sequence, sequence.pending)
    else:
        step.decode()
        for sequence in step.prefilling:
            step.compute(sequence, sequence.pending)
