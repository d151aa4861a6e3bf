"""Dynamic SplitFuse (DeepSpeed-FastGen, section 3.2): each step has exactly the budget's number of tokens.

The time of a step depends on its number of tokens, and throughput is concave in it, so equal steps are the fastest:
long prompts are split, short ones fused, and the last one is cut to fill the step. Steps are more regular than
Sarathi's, and chunks have any length. A prompt is started only if memory has room for all of it, as with every policy
here.
"""

from __future__ import annotations

from headrace_llm.scheduler.core import Step


def plan(step: Step) -> None:
    """Add decodes, then fill the step."""
    step.decode()
    for sequence in step.prefilling:
        step.compute(sequence, step.left)
    while step.left > 0 and (admitted := step.admit()):
        step.compute(admitted, step.left)
