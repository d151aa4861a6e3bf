"""Hermes: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, of Hermes, Qwen 2.5 and 3.

Source: the chat templates of NousResearch/Hermes-2-Pro and Qwen/Qwen3.
"""

from __future__ import annotations

from headrace_models.dialects.call_format import CallFormat

HERMES = CallFormat(
    opening="<tool_call>",
    bare=False,
    list_opening="",
    separator="",
    closing="</tool_call>",
    arguments="arguments",
    first="<tool_call>\n",
    between="\n</tool_call>\n<tool_call>\n",
    last="\n</tool_call>",
)

_OTHERS = ("<function=", "<arg_key>")
"""Within the same marker, the XML of Qwen3-Coder and of GLM, which are other formats."""


def is_hermes(template: str) -> bool:
    """Return whether a chat template asks for this format."""
    return HERMES.opening in template and not any(other in template for other in _OTHERS)
