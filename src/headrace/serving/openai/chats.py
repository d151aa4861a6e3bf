"""The body of POST /v1/chat/completions."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag
from typing_extensions import override

from headrace.serving.engine import Chat, ChatMessage, Constraint, TextEngine, ToolCall, ToolUse
from headrace.serving.errors import InvalidRequest
from headrace.serving.openai.fields import (
    HARMLESS_IN_MESSAGES,
    HARMLESS_IN_PARTS,
    HINTS,
    HINTS_IN_PARTS,
    OFF,
    OFF_IN_MESSAGES,
    Fields,
)
from headrace.serving.openai.plan import Prompt
from headrace.serving.openai.requests import MAX_TOP_LOGPROBS, GenerationBody, check_size, text_or_list, unsupported
from headrace.serving.openai.tools import MAX_TOOLS, NAME, ChosenTool, ToolBody, ToolChoice, tool_use

MAX_MESSAGES = 2048
MAX_PARTS = 256
MAX_CALLS = 128
MAX_TEMPLATE_OPTIONS = 32


class ContentPart(Fields):
    """A part of a message's content: text, the only supported type."""

    where = "messages[].content[]."
    harmless = HARMLESS_IN_PARTS
    hints = HINTS_IN_PARTS

    type: Literal["text"]
    text: str


class CalledFunction(Fields):
    """The function of an earlier call."""

    where = "messages[].tool_calls[].function."

    name: str = Field(pattern=NAME)
    arguments: str


class EarlierCall(Fields):
    """A call in an earlier answer."""

    where = "messages[].tool_calls[]."
    harmless = frozenset({"index"})  # of a streamed answer that was put together

    id: str = Field(max_length=256)
    type: Literal["function"]
    function: CalledFunction


class Message(Fields):
    """One turn of a conversation."""

    where = "messages[]."
    harmless = HARMLESS_IN_MESSAGES
    off = OFF_IN_MESSAGES

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: (
        Annotated[
            Annotated[str, Tag("text")] | Annotated[list[ContentPart], Field(max_length=MAX_PARTS), Tag("list")],
            Discriminator(text_or_list, "content_type", "Input should be a string or a list of parts"),
        ]
        | None
    ) = None
    name: str | None = Field(default=None, max_length=256)
    tool_calls: list[EarlierCall] | None = Field(default=None, max_length=MAX_CALLS)
    tool_call_id: str | None = Field(default=None, max_length=256)
    reasoning_content: str | None = None

    def turn(self, param: str) -> ChatMessage:
        """Return the message for the chat template. Parts are joined by line breaks, as in vLLM."""
        if self.content is None and not self.tool_calls:
            raise InvalidRequest(f"`{param}.content` is missing: a string or a list of parts", param=f"{param}.content")
        if self.tool_calls and self.role != "assistant":
            raise InvalidRequest(f"`{param}.tool_calls` is only allowed in role assistant", param=f"{param}.tool_calls")
        if (self.tool_call_id is not None) is not (self.role == "tool"):
            raise InvalidRequest(
                f"`{param}.tool_call_id` belongs to each message of role tool, and to no other",
                param=f"{param}.tool_call_id",
            )
        content = self.content or ""
        calls = [ToolCall(call.id, call.function.name, call.function.arguments) for call in self.tool_calls or ()]
        return ChatMessage(
            "system" if self.role == "developer" else self.role,
            content if isinstance(content, str) else "\n".join(part.text for part in content),
            self.name,
            tuple(calls),
            self.tool_call_id,
            self.reasoning_content or "",
        )


def conversation(messages: list[Message]) -> tuple[ChatMessage, ...]:
    """Return the turns for the chat template."""
    return tuple(message.turn(f"messages[{index}]") for index, message in enumerate(messages))


def chat_prompt(chat: Chat, engine: TextEngine, *, param: str) -> Prompt:
    """Return a conversation, rendered by the model's chat template. Raises InvalidRequest, ContextLengthExceeded."""
    texts = [
        f"{turn.content}{turn.reasoning}" + "".join(call.arguments for call in turn.tool_calls)
        for turn in chat.messages
    ]
    if chat.tool_use is not None:
        texts += [tool.description + json.dumps(tool.parameters) for tool in chat.tool_use.tools]
    if chat.template_options:
        texts.append(json.dumps(chat.template_options))
    check_size("".join(texts), engine, param=param)
    return Prompt(engine.encode_chat(chat), param, chat=chat)


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    off: ClassVar = {**OFF, "add_special_tokens": (False,)}
    hints: ClassVar = {**HINTS, "prompt": "Send it to /v1/completions, or as `messages`"}

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    tools: list[ToolBody] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    chat_template_kwargs: dict[str, Any] | None = Field(default=None, max_length=MAX_TEMPLATE_OPTIONS)
    """From vLLM: variables of the template, such as `enable_thinking`."""

    @override
    def prompts(self, engine: TextEngine) -> list[Prompt]:
        """Return the conversation, rendered by the model's chat template."""
        chat = Chat(conversation(self.messages), self.tool_use(), self.chat_template_kwargs or {})
        return [chat_prompt(chat, engine, param="messages")]

    @override
    def top_logprobs_wanted(self) -> int | None:
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("`top_logprobs` is only allowed with `logprobs: true`", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None

    @override
    def constraint(self, engine: TextEngine) -> Constraint | None:
        wanted, use = super().constraint(engine), self.tool_use()
        if use is None:
            return wanted
        if wanted is not None:
            raise unsupported(wanted.param, "Leave out `tools`, or set `tool_choice` to none")
        return engine.tool_constraint(use, self.chat_template_kwargs or {})

    def tool_use(self) -> ToolUse | None:
        """Return which tools may be called."""
        choice = self.tool_choice
        name = choice.function.name if isinstance(choice, ChosenTool) else None
        return tool_use(
            [each.function.tool() for each in self.tools or ()],
            choice if isinstance(choice, str) else None,
            name,
            parallel=self.parallel_tool_calls,
        )
