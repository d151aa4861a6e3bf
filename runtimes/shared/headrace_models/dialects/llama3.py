"""Llama 3.1 and later: an answer that is `{"name": ..., "parameters": {...}}`; several are separated by semicolons.

`<|python_tag|>` may stand before it. Source: the chat template and the model card of meta-llama/Llama-3.1-8B-Instruct.
"""

from __future__ import annotations

from headrace_models.dialects.call_format import CallFormat

LLAMA3 = CallFormat(
    opening="<|python_tag|>",
    bare=True,
    list_opening="",
    separator=";",
    closing="",
    arguments="parameters",
    first="",
    between="; ",
    last="",
)


def is_llama3(template: str) -> bool:
    """Return whether a chat template asks for this format."""
    return "<|start_header_id|>" in template and '"parameters"' in template
