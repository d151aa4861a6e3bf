"""What clients may ask for.

A field that would change the answer and is not implemented is refused by name, never ignored. What means nothing here
(another engine's field, a default written out, a null) is tolerated, because real clients send such things.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import override

from headrace.serving.engine import ChatMessage, Sampling, TextEngine
from headrace.serving.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter

MAX_MESSAGES = 2048
MAX_PARTS = 256
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256
DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default for plain completions."""

REFUSED: Mapping[str, tuple[object, ...]] = {
    # OpenAI's
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    # vLLM's and other engines'
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "min_tokens": (0,),
    "min_p": (0,),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "prompt_logprobs": (),
    "truncate_prompt_tokens": (),
    "skip_special_tokens": (True,),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "documents": ([],),
}
"""Known fields that would change the answer, each with the values that mean "off" (null always does)."""


class Body(BaseModel):
    """A request's body: read strictly (a number is no string), unknown fields kept to be looked at, then tolerated."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    model: str | None = Field(default=None, max_length=256)

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Return the request. Raises InvalidRequest that names the field at fault."""
        try:
            body = cls.model_validate_json(raw)
        except ValidationError as error:
            raise _fault(error, raw) from None  # pydantic's own message quotes the prompt
        for name, value in (body.model_extra or {}).items():
            if name in REFUSED and value is not None and not _is_off(value, REFUSED[name]):
                raise UnsupportedParameter(f"`{name}` is not supported here", param=name, hint="Leave it out")
        return body


def _is_off(value: object, off: tuple[object, ...]) -> bool:
    """Whether the value is one of these; 0 is not false, nor 1 true: `logprobs: 0` asks for something."""
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in off)


class StreamOptions(BaseModel):
    """What a stream carries besides text."""

    model_config = ConfigDict(strict=True, frozen=True)

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    """vLLM's: the usage so far in every chunk."""


class GenerationBody(Body, ABC):
    """What chat and plain completions share."""

    prompt_field: ClassVar[str]
    """The field that holds the prompt."""

    model: str = Field(max_length=256)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    stop: (
        Annotated[str, Field(max_length=MAX_STOP_CHARACTERS)]
        | Annotated[
            list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]], Field(max_length=MAX_STOPS)
        ]
        | None
    ) = None
    ignore_eos: bool | None = None

    @abstractmethod
    def prompt_tokens(self, engine: TextEngine) -> list[int]:
        """Return the prompt as token ids."""

    def limit(self) -> int | None:
        """Return how long the answer may be; None: as long as there is room."""
        return self.max_tokens

    def sampling(self, prompt_tokens: int, model_len: int) -> Sampling:
        """Return how to choose the answer's tokens. Raises InvalidRequest where the fields contradict or do not fit."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("`stream_options` is only allowed with `stream: true`", param="stream_options")
        room, limit = model_len - prompt_tokens, self.limit()
        if room < (limit or 1):
            wanted = f" and up to {limit} of the answer" if limit is not None else ""
            raise ContextLengthExceeded(
                f"the model takes {model_len} tokens, and this request is {prompt_tokens} of the prompt{wanted}",
                param=self.prompt_field,
                hint="Shorten the prompt" if limit is None or room < 1 else "Shorten the prompt or lower `max_tokens`",
            )
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            max_tokens=room if limit is None else limit,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            seed=self.seed,
            stop=tuple(text for text in stop if text),
            ignore_eos=bool(self.ignore_eos),
        )


class ContentPart(BaseModel):
    """A part of a message's content."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    type: str = Field(max_length=64)
    text: str | None = None


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[ContentPart], Field(max_length=MAX_PARTS)]


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    prompt_field = "messages"

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=1)

    @override
    def limit(self) -> int | None:
        """Return how long the answer may be; the newer name wins."""
        return self.max_completion_tokens or self.max_tokens

    @override
    def prompt_tokens(self, engine: TextEngine) -> list[int]:
        """Return the conversation through the model's chat template."""
        turns = [_turn(message, index) for index, message in enumerate(self.messages)]
        _check_size("".join(turn.content for turn in turns), engine, param="messages")
        return engine.encode_chat(turns)


class CompletionBody(GenerationBody):
    """POST /v1/completions. The prompt is text or token ids; a list of one text counts as that text."""

    prompt_field = "prompt"

    prompt: str | list[int] | list[str] | list[list[int]]

    @override
    def limit(self) -> int | None:
        """Return how long the answer may be."""
        return self.max_tokens or DEFAULT_COMPLETION_TOKENS

    @override
    def prompt_tokens(self, engine: TextEngine) -> list[int]:
        """Return the prompt's token ids."""
        prompt = self.prompt
        if not isinstance(prompt, str) and prompt and not isinstance(prompt[0], int):
            if len(prompt) > 1:
                raise UnsupportedParameter(
                    "several prompts in one request are not supported", param="prompt", hint="Send one request for each"
                )
            prompt = prompt[0]
        if isinstance(prompt, list):
            return checked_tokens(prompt, engine, param="prompt")
        _check_size(prompt, engine, param="prompt")
        return engine.encode(prompt)


class TokenizeBody(Body):
    """POST /tokenize: a text, or a conversation."""

    prompt: str | None = None
    messages: list[Message] | None = Field(default=None, min_length=1, max_length=MAX_MESSAGES)

    def tokens(self, engine: TextEngine) -> list[int]:
        """Return the token ids."""
        if self.messages is not None:
            return engine.encode_chat([_turn(message, index) for index, message in enumerate(self.messages)])
        if self.prompt is None:
            raise InvalidRequest("`prompt` or `messages` is needed", param="prompt")
        return engine.encode(self.prompt)


class DetokenizeBody(Body):
    """POST /detokenize."""

    tokens: list[int]


def checked_tokens(tokens: list[Any], engine: TextEngine, *, param: str) -> list[int]:
    """Return the token ids when the model has them all: one that it has not would break the step of everybody."""
    if not all(isinstance(token, int) and 0 <= token < engine.vocabulary for token in tokens):
        raise InvalidRequest(f"a token id must be a number from 0 to {engine.vocabulary - 1}", param=param)
    return tokens


def _check_size(text: str, engine: TextEngine, *, param: str) -> None:
    """Refuse unread what cannot fit, whatever its tokens: reading megabytes takes seconds."""
    size = len(text.encode(errors="surrogatepass"))
    if size > engine.model_len * engine.longest_token:
        raise ContextLengthExceeded(
            f"the model takes {engine.model_len} tokens, and {size} bytes of text are more in any case",
            param=param,
            hint="Shorten the prompt",
        )


def _turn(message: Message, index: int) -> ChatMessage:
    """Return one message as a chat template takes it. Parts are joined by line breaks, as vLLM does."""
    where = f"messages[{index}]"
    for name in ("tool_calls", "function_call", "tool_call_id", "audio"):
        if (message.model_extra or {}).get(name):
            raise UnsupportedParameter(f"`{where}.{name}` is not supported here", param=f"{where}.{name}")
    role = "system" if message.role == "developer" else message.role
    if isinstance(message.content, str):
        return ChatMessage(role, message.content)
    texts: list[str] = []
    for number, part in enumerate(message.content):
        at = f"{where}.content[{number}]"
        if part.type != "text":
            raise UnsupportedParameter(
                f"`{at}` is of the type {part.type!r}: this model reads text", param=at, hint="Send parts of type text"
            )
        if part.text is None:
            raise InvalidRequest(f"`{at}.text` is missing", param=f"{at}.text")
        texts.append(part.text)
    return ChatMessage(role, "\n".join(texts))


def _fault(error: ValidationError, raw: bytes) -> InvalidRequest:
    """Return the fault that lies deepest: of a union's branches, the one that the client meant."""
    fault = max(error.errors(include_url=False, include_input=False), key=lambda fault: len(fault["loc"]))
    text = fault["msg"].removeprefix("Invalid JSON: ")
    text = text[:1].lower() + text[1:]
    if fault["type"] == "json_invalid":
        return InvalidRequest(f"the body is not JSON: {text}", hint="Check quotes, commas and braces")
    param = _path(fault["loc"], json.loads(raw))
    return InvalidRequest(f"`{param}`: {text}" if param else f"the body: {text}", param=param or None)


def _path(loc: tuple[int | str, ...], body: Any) -> str:
    """Return a fault's place as a client writes it, `messages[0].content`.

    pydantic's path also has the names of union branches; they are the steps for which the body has no object.
    """
    path, node = "", body
    for step in loc:
        if isinstance(step, int):
            path, node = f"{path}[{step}]", node[step] if isinstance(node, list) and step < len(node) else None
        elif isinstance(node, dict):
            path, node = (f"{path}.{step}" if path else step), node.get(step)
    return path
