"""Mistral: `[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`, of its tokenizers up to v7.

Source: the chat template of mistralai/Mistral-7B-Instruct-v0.3, which also requires the ids' form.
"""

from __future__ import annotations

from headrace_models.dialects.call_format import CallFormat

MISTRAL = CallFormat(
    opening="[TOOL_CALLS]",
    bare=False,
    list_opening="[",
    separator=",",
    closing="]",
    arguments="arguments",
    first="[TOOL_CALLS][",
    between=", ",
    last="]",
    short_ids=True,
)

_LATER = "[ARGS]"
"""Of tokenizers from v11 on, which write the name outside the JSON."""


def is_mistral(template: str) -> bool:
    """Return whether a chat template asks for this format."""
    return MISTRAL.opening in template and _LATER not in template
