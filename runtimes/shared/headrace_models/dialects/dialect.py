"""How one model writes tool calls and reasoning."""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from headrace.serving.engine import Constraint, MessageParser, ToolUse
from headrace_models.dialects.call_format import CallFormat
from headrace_models.dialects.call_parser import CallParser
from headrace_models.dialects.reasoning import ReasoningParser, ReasoningSplitter, reasons
from headrace_models.dialects.registry import call_format
from headrace_models.dialects.tool_grammar import Reasoning, tool_constraint

_ALPHANUMERIC = string.ascii_letters + string.digits
_ID_LENGTH, _SHORT_ID_LENGTH = 24, 9


@dataclass(frozen=True, slots=True)
class Dialect:
    """The formats of a model: those that its chat template and its special tokens show."""

    calls: CallFormat | None
    """None: the model has no format of tool calls that is known."""
    reasons: bool
    special: Mapping[str, int]
    """Ids of special tokens by text."""

    @classmethod
    def of(cls, template: str, special: Mapping[int, str]) -> Dialect:
        """Return the dialect. `special`: special tokens by id."""
        ids = {text: i for i, text in special.items()}
        return cls(call_format(template), reasons(template, frozenset(ids)), ids)

    def parser(self, tool_use: ToolUse | None, *, opened: bool) -> MessageParser | None:
        """Return a parser of an answer; None: it is content only. `opened`: whether the prompt opens the reasoning."""
        calls = None
        if tool_use is not None and tool_use.tools and self.calls is not None:
            names = {tool.name for tool in tool_use.tools if tool_use.name in ("", tool.name)}
            new_id = partial(_new_id, short=self.calls.short_ids)
            calls = CallParser(self.calls, names, parallel=tool_use.parallel, new_id=new_id)
        return ReasoningParser(ReasoningSplitter(opened=opened), calls) if self.reasons else calls

    def tool_constraint(self, tool_use: ToolUse, *, opened: bool) -> Constraint | None:
        """Return the constraint of an answer that must be a call; None: it need not be one, or no format is known."""
        if self.calls is None:
            return None
        reasoning = Reasoning.NONE if not self.reasons else Reasoning.OPENED if opened else Reasoning.OPTIONAL
        return tool_constraint(self.calls, tool_use, special=self.special, reasoning=reasoning)


def _new_id(*, short: bool) -> str:
    prefix, length = ("", _SHORT_ID_LENGTH) if short else ("call_", _ID_LENGTH)
    return prefix + "".join(secrets.choice(_ALPHANUMERIC) for _ in range(length))
