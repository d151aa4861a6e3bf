"""The body of POST /v1/responses. Nothing is stored: each request has its whole conversation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from headrace.serving.engine import (
    Chat,
    ChatMessage,
    Constraint,
    ConstraintKind,
    GenerationRequest,
    StopConditions,
    TextEngine,
    ToolCall,
    ToolUse,
)
from headrace.serving.errors import InvalidRequest
from headrace.serving.openai.chats import MAX_MESSAGES, MAX_PARTS, chat_prompt
from headrace.serving.openai.constraints import ANY_OBJECT, schema_constraint
from headrace.serving.openai.fields import HARMLESS_IN_MESSAGES, HARMLESS_IN_PARTS, HINTS, HINTS_IN_PARTS, OFF, Fields
from headrace.serving.openai.plan import Plan
from headrace.serving.openai.requests import SamplingBody, answer_tokens, text_or_list, unsupported
from headrace.serving.openai.tools import MAX_TOOLS, NAME, Function, text_or_object, tool_use

_RETURNED = frozenset({"id", "status", "phase"})
"""Of an item of an earlier response, which clients send back."""


class ItemPart(Fields):
    """A part of a message's content."""

    where = "input[].content[]."
    harmless = HARMLESS_IN_PARTS | {"annotations", "logprobs"}
    hints = HINTS_IN_PARTS

    type: Literal["input_text", "output_text", "reasoning_text", "summary_text"]
    text: str


ItemContent = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[ItemPart], Field(max_length=MAX_PARTS), Tag("list")],
    Discriminator(text_or_list, "content_type", "Input should be a string or a list of parts"),
]


class MessageItem(Fields):
    """A turn of the conversation."""

    where = "input[]."
    harmless = HARMLESS_IN_MESSAGES | _RETURNED

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: ItemContent

    def turn(self) -> ChatMessage:
        """Return the message for the chat template."""
        return ChatMessage("system" if self.role == "developer" else self.role, _text(self.content))


class ReasoningItem(Fields):
    """What the model thought before an earlier answer."""

    where = "input[]."
    harmless = _RETURNED | {"summary"}

    type: Literal["reasoning"]
    content: list[ItemPart] | None = Field(default=None, max_length=MAX_PARTS)

    def turn(self) -> ChatMessage:
        """Return the assistant's message, of which the answer is still missing."""
        return ChatMessage("assistant", "", reasoning=_text(self.content or []))


class CallItem(Fields):
    """An earlier call of a tool."""

    where = "input[]."
    harmless = _RETURNED

    type: Literal["function_call"]
    call_id: str = Field(max_length=256)
    name: str = Field(pattern=NAME)
    arguments: str

    def turn(self) -> ChatMessage:
        """Return the assistant's message with the call."""
        return ChatMessage("assistant", "", tool_calls=(ToolCall(self.call_id, self.name, self.arguments),))


class CallOutputItem(Fields):
    """What an earlier call returned."""

    where = "input[]."
    harmless = _RETURNED

    type: Literal["function_call_output"]
    call_id: str = Field(max_length=256)
    output: ItemContent

    def turn(self) -> ChatMessage:
        """Return the tool's message."""
        return ChatMessage("tool", _text(self.output), tool_call_id=self.call_id)


def _item_form(value: object) -> str | None:
    if not isinstance(value, dict):
        return None
    kind = value.get("type") or "message"
    return f"{kind} item" if isinstance(kind, str) else None


Item = Annotated[
    Annotated[MessageItem, Tag("message item")]
    | Annotated[ReasoningItem, Tag("reasoning item")]
    | Annotated[CallItem, Tag("function_call item")]
    | Annotated[CallOutputItem, Tag("function_call_output item")],
    Discriminator(
        _item_form, "item_type", "Input should be a message, reasoning, function_call or function_call_output"
    ),
]


class FunctionTool(Function):
    """One item of `tools`."""

    where = "tools[]."

    type: Literal["function"]


class ChosenTool(Fields):
    """The only tool that may be called."""

    where = "tool_choice."

    type: Literal["function"]
    name: str = Field(pattern=NAME)


class TextFormat(Fields):
    """The format of the answer's text."""

    where = "text.format."

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(default=None, max_length=64)
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None

    def constraint(self) -> Constraint | None:
        """Return what the answer must match; None: it is any text."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return Constraint(ConstraintKind.JSON_SCHEMA, ANY_OBJECT, "text.format")
        if self.schema_ is None:
            raise InvalidRequest("`text.format.schema` is missing", param="text.format.schema")
        return schema_constraint(self.schema_, "text.format.schema")


class TextOptions(Fields):
    """Options of the answer's text."""

    where = "text."
    off: ClassVar = {"verbosity": ("medium",)}

    format: TextFormat | None = None


class Reasoning(Fields):
    """Options of reasoning; the engine has none of them."""

    where = "reasoning."
    off: ClassVar = {"effort": ("none",), "summary": ("auto",), "generate_summary": ("auto",)}


class ResponseBody(SamplingBody):
    """POST /v1/responses."""

    off: ClassVar = {
        **OFF,
        "previous_response_id": (),
        "conversation": (),
        "include": ([],),
        "truncation": ("disabled",),
        "max_tool_calls": (),
        "context_management": ([],),
        "stream_options": ({}, {"include_obfuscation": False}),
    }
    hints: ClassVar = {
        **HINTS,
        **dict.fromkeys(
            ("previous_response_id", "conversation", "prompt"),
            "Send the whole conversation as `input`: nothing is stored",
        ),
        **dict.fromkeys(("max_tokens", "max_completion_tokens"), "Use `max_output_tokens`"),
        "messages": "Send them to /v1/chat/completions, or as `input`",
        "response_format": "Use `text.format`",
    }

    input: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[Item], Field(min_length=1, max_length=MAX_MESSAGES), Tag("list")],
        Discriminator(text_or_list, "input_type", "Input should be a string or a list of items"),
    ]
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    tools: list[FunctionTool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: (
        Annotated[
            Annotated[Literal["none", "auto", "required"], Tag("text")] | Annotated[ChosenTool, Tag("an object")],
            Discriminator(text_or_object, "choice_type", "Input should be none, auto, required, or a function"),
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None

    def plan(self, engine: TextEngine, *, cursors: bool = False, adapter: str = "") -> Plan:
        """Return the engine's request. Raises InvalidRequest. A parsed answer has no cursors."""
        del cursors
        chat = Chat(self.turns(), self.tool_use())
        prompt, constraint = chat_prompt(chat, engine, param="input"), self.constraint(engine)
        parser = engine.parser(chat)
        request = GenerationRequest(
            tuple(prompt.tokens),
            self.sampling(engine),
            StopConditions(answer_tokens(prompt, self.max_output_tokens, engine, field="max_output_tokens")),
            tenant=self.cache_salt or "",
            constraint=constraint,
            adapter=adapter,
            special_tokens=parser is not None,
        )
        return Plan((request,), parsers=() if parser is None else (parser,), stream=bool(self.stream))

    def turns(self) -> tuple[ChatMessage, ...]:
        """Return the conversation for the chat template."""
        if isinstance(self.input, str):
            given: Iterable[ChatMessage] = [ChatMessage("user", self.input)]
        else:
            given = [item.turn() for item in self.input]
        turns = [] if self.instructions is None else [ChatMessage("system", self.instructions)]
        for turn in given:
            if turns and (joined := _joined(turns[-1], turn)) is not None:
                turns[-1] = joined
            else:
                turns.append(turn)
        return tuple(turns)

    def tool_use(self) -> ToolUse | None:
        """Return which tools may be called."""
        choice = self.tool_choice
        return tool_use(
            [each.tool() for each in self.tools or ()],
            choice if isinstance(choice, str) else None,
            choice.name if isinstance(choice, ChosenTool) else None,
            parallel=self.parallel_tool_calls,
        )

    def constraint(self, engine: TextEngine) -> Constraint | None:
        """Return what the answer must match."""
        formatted = None if self.text is None or self.text.format is None else self.text.format.constraint()
        use = self.tool_use()
        if use is None:
            return formatted
        if formatted is not None:
            raise unsupported("text.format", "Leave out `tools`, or set `tool_choice` to none")
        return engine.tool_constraint(use, {})


def _joined(earlier: ChatMessage, later: ChatMessage) -> ChatMessage | None:
    """Return two items as one message of the assistant: its reasoning, its text, its calls. None: they are two."""
    if earlier.role != "assistant" or later.role != "assistant":
        return None
    if later.reasoning or (later.content and (earlier.content or earlier.tool_calls)):
        return None
    return replace(earlier, content=earlier.content + later.content, tool_calls=earlier.tool_calls + later.tool_calls)


def _text(content: str | list[ItemPart]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)
