"""The bodies of vLLM's endpoints for tokens."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from headrace.serving.engine import Chat, TextEngine
from headrace.serving.errors import InvalidRequest
from headrace.serving.openai.chats import MAX_MESSAGES, Message, chat_prompt, conversation
from headrace.serving.openai.fields import OFF
from headrace.serving.openai.requests import Body, check_size, unsupported


class TokenizeBody(Body):
    """POST /tokenize: a text, or a conversation."""

    off: ClassVar = {**OFF}

    prompt: str | None = None
    messages: list[Message] | None = Field(default=None, min_length=1, max_length=MAX_MESSAGES)
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None

    def tokens(self, engine: TextEngine) -> list[int]:
        """Return the token ids. Raises InvalidRequest, ContextLengthExceeded."""
        given = "prompt" if self.messages is None else "messages"
        if self.add_special_tokens not in (None, given == "prompt"):
            raise unsupported("add_special_tokens", f"Leave it out with `{given}`")
        if self.messages is not None and self.prompt is None:
            return chat_prompt(Chat(conversation(self.messages)), engine, param="messages").tokens
        if self.prompt is not None and self.messages is None:
            check_size(self.prompt, engine, param="prompt")
            return engine.encode(self.prompt)
        raise InvalidRequest("either `prompt` or `messages` is needed", param="prompt")


class DetokenizeBody(Body):
    """POST /detokenize."""

    tokens: list[int]
