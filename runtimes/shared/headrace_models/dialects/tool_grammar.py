"""The grammar of an answer that must call tools, in the model's own format."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import Enum

from headrace.serving.engine import Constraint, ConstraintKind, Tool, ToolUse
from headrace.serving.errors import InvalidRequest
from headrace_models.dialects.call_format import CallFormat
from headrace_models.dialects.reasoning import END_THINK, THINK


class Reasoning(Enum):
    """What an answer begins with."""

    NONE = "none"
    OPTIONAL = "optional"
    """Reasoning between its markers, or none."""
    OPENED = "opened"
    """Reasoning up to its closing marker: the prompt ends with the opening one."""


def tool_constraint(
    calls: CallFormat, tool_use: ToolUse, *, special: Mapping[str, int], reasoning: Reasoning
) -> Constraint | None:
    """Return the constraint of an answer that must call one of the tools; None: it need not.

    `special`: ids of special tokens by text; markers that are none of them are text. The grammar is in Lark's syntax
    with the extensions of llguidance: `%json` (a schema), `<[id]>` (a token), `[lazy]` (the shortest match).
    Raises InvalidRequest if the named tool is not one of them.
    """
    if not tool_use.required and not tool_use.name:
        return None

    tools = [tool for tool in tool_use.tools if tool_use.name in ("", tool.name)]
    if not tools:
        raise InvalidRequest(f"there is no tool {tool_use.name!r} in tools", param="tool_choice")

    def written(text: str) -> str:
        """Return the grammar of a text that may contain special tokens."""
        longest_first = sorted(special, key=len, reverse=True)
        pieces = re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if special else [text]
        return " ".join(f"<[{special[piece]}]>" if piece in special else json.dumps(piece) for piece in pieces if piece)

    several = tool_use.parallel and not tool_use.name
    parts = [
        {Reasoning.NONE: "", Reasoning.OPTIONAL: "reasoning?", Reasoning.OPENED: "thoughts SPACE"}[reasoning],
        written(calls.first),
        "call",
        f"({written(calls.between)} call)*" if several else "",
        written(calls.last),
    ]
    rules = [f"start: {' '.join(filter(None, parts))}", f"call: {' | '.join(f'call_{i}' for i in range(len(tools)))}"]
    if reasoning is not Reasoning.NONE:
        rules += [f"reasoning: {written(THINK)} thoughts SPACE", r"SPACE: /[ \r\n\t]*/"]
        # A special token is outside all text; the other marker is text, at which the shortest match ends.
        ends = END_THINK in special
        rules += [f"thoughts: TEXT {written(END_THINK)}", r"TEXT: /(.|\n)*/"] if ends else [_THOUGHTS]
    for i, tool in enumerate(tools):
        rules += _call(i, tool, calls.arguments)
    return Constraint(ConstraintKind.GRAMMAR, "\n".join(rules), "tools")


JSON_WHITESPACE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Options of llguidance, `x-guidance` in a schema: JSON as `tojson` of chat templates writes it."""
_THOUGHTS = "thoughts[lazy]: /(.|\\n)*" + END_THINK.replace("/", "\\/") + "/"


def _call(index: int, tool: Tool, arguments_key: str) -> list[str]:
    """Return the rules of a call. The schema is a rule of its own, so that its references to itself stay correct."""
    head = f'{{"name": {json.dumps(tool.name)}, {json.dumps(arguments_key)}: '
    schema = {"type": "object", **tool.parameters, "x-guidance": JSON_WHITESPACE}
    return [
        f'call_{index}: {json.dumps(head)} arguments_{index} "}}"',
        f"arguments_{index}: %json {json.dumps(schema)}",
    ]
