"""Request bodies of the endpoints, and their translation for the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, ValidationError
from typing_extensions import override

from headrace.serving.engine import Chat, ChatMessage, GenerationRequest, Sampling, StopConditions, TextEngine
from headrace.serving.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from headrace.serving.openai.faults import fault
from headrace.serving.openai.fields import (
    HARMLESS,
    HARMLESS_IN_MESSAGES,
    HARMLESS_IN_PARTS,
    HINTS,
    HINTS_IN_PARTS,
    OFF,
    OFF_IN_MESSAGES,
    Fields,
)

MAX_MESSAGES = 2048
MAX_PARTS = 256
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKENS = 1024
DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default for plain completions."""


def _text_or_list(value: object) -> str | None:
    """Discriminate a union of text and list; None: neither."""
    return "text" if isinstance(value, str) else "list" if isinstance(value, list) else None


def _prompt_form(value: object) -> str | None:
    """Discriminate the form of a prompt by its first item."""
    if isinstance(value, list) and value:
        forms = {str: "texts", int: "tokens", list: "token lists"}
        return forms.get(type(value[0]))
    return "tokens" if value == [] else _text_or_list(value)


class Body(Fields):
    """A request's body."""

    harmless = HARMLESS
    off = OFF

    model: str | None = Field(default=None, max_length=256)

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Return the request. Raises InvalidRequest that names the field at fault."""
        try:
            return cls.model_validate_json(raw)
        except ValidationError as error:
            raise fault(error, raw) from None  # pydantic's own message quotes the prompt


@dataclass(frozen=True, slots=True)
class Prompt:
    """One of a request's prompts, as token ids."""

    tokens: list[int]
    param: str
    """The field that holds it, for errors."""


class StreamOptions(Fields):
    """Options of a stream: usage."""

    off: ClassVar = {"include_obfuscation": (False,)}

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    """From vLLM: the usage so far in every chunk."""


class GenerationBody(Body, ABC):
    """The common fields of chat and plain completions."""

    model: str = Field(max_length=256)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    stop: (
        Annotated[
            Annotated[str, Field(max_length=MAX_STOP_CHARACTERS), Tag("text")]
            | Annotated[
                list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]],
                Field(max_length=MAX_STOPS),
                Tag("list"),
            ],
            Discriminator(_text_or_list, "stop_type", "Input should be a string or a list of strings"),
        ]
        | None
    ) = None
    stop_token_ids: list[int] | None = Field(default=None, max_length=MAX_STOP_TOKENS)
    ignore_eos: bool | None = None

    @abstractmethod
    def prompts(self, engine: TextEngine) -> list[Prompt]:
        """Return the prompts; each gets an answer of its own."""

    def limit(self) -> int | None:
        """Return the token limit of the answer; the newer name takes precedence. None: up to the model's length."""
        return self.max_completion_tokens or self.max_tokens

    def requests(self, engine: TextEngine, *, cursors: bool = False) -> list[GenerationRequest]:
        """Return a request for each prompt. Raises InvalidRequest if fields contradict each other or exceed a limit."""
        return [self.request(prompt, engine, cursors=cursors) for prompt in self.prompts(engine)]

    def request(self, prompt: Prompt, engine: TextEngine, *, cursors: bool = False) -> GenerationRequest:
        """Return the engine's request for one prompt."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("`stream_options` is only allowed with `stream: true`", param="stream_options")
        room, limit = engine.model_len - len(prompt.tokens), self.limit()
        if room < (limit or 1):
            wanted = f" and up to {limit} of the answer" if limit is not None else ""
            raise ContextLengthExceeded(
                f"the model length is {engine.model_len} tokens, and the request has {len(prompt.tokens)} of the prompt"
                f"{wanted}",
                param=prompt.param,
                hint="Shorten the prompt" if limit is None or room < 1 else "Shorten the prompt or lower `max_tokens`",
            )
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        greedy = self.top_p == 0  # only the most likely token is left, as in OpenAI's API
        sampling = Sampling(
            temperature=0.0 if greedy else 1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if greedy or self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            seed=self.seed,
        )
        conditions = StopConditions(
            max_tokens=room if limit is None else limit,
            strings=tuple(text for text in stop if text),
            token_ids=frozenset(checked_tokens(self.stop_token_ids or [], engine, param="stop_token_ids")),
            ignore_eos=bool(self.ignore_eos),
        )
        cursors = cursors and bool(self.stream)  # only streams are interrupted in between
        return GenerationRequest(tuple(prompt.tokens), sampling, conditions, cursors)


class ContentPart(Fields):
    """A part of a message's content: text, the only supported type."""

    harmless = HARMLESS_IN_PARTS
    hints = HINTS_IN_PARTS

    type: Literal["text"]
    text: str


class Message(Fields):
    """One turn of a conversation."""

    harmless = HARMLESS_IN_MESSAGES
    off = OFF_IN_MESSAGES

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[ContentPart], Field(max_length=MAX_PARTS), Tag("list")],
        Discriminator(_text_or_list, "content_type", "Input should be a string or a list of parts"),
    ]
    name: str | None = Field(default=None, max_length=256)


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    off: ClassVar = {**OFF, "add_special_tokens": (False,)}
    hints: ClassVar = {**HINTS, "prompt": "Send it to /v1/completions, or as `messages`"}

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)

    @override
    def prompts(self, engine: TextEngine) -> list[Prompt]:
        """Return the conversation, rendered by the model's chat template."""
        turns = [_turn(message) for message in self.messages]
        _check_size("".join(turn.content for turn in turns), engine, param="messages")
        return [Prompt(engine.encode_chat(Chat(tuple(turns))), "messages")]


class CompletionBody(GenerationBody):
    """POST /v1/completions. A prompt is text or token ids; a list of texts or of lists of ids is several prompts."""

    off: ClassVar = {**OFF, "add_special_tokens": (True,)}
    hints: ClassVar = {**HINTS, "messages": "Send them to /v1/chat/completions"}

    prompt: Annotated[
        Annotated[str, Tag("text")]
        | Annotated[list[int], Field(min_length=1), Tag("tokens")]
        | Annotated[list[str], Tag("texts")]
        | Annotated[list[Annotated[list[int], Field(min_length=1)]], Tag("token lists")],
        Discriminator(_prompt_form, "prompt_type", "Input should be a string, a list of strings, or token ids"),
    ]

    @override
    def limit(self) -> int | None:
        """Return the token limit of the answer."""
        return super().limit() or DEFAULT_COMPLETION_TOKENS

    @override
    def prompts(self, engine: TextEngine) -> list[Prompt]:
        """Return the prompts' token ids. More prompts than the engine's capacity could never be served."""
        prompts = self._several()
        if len(prompts) > engine.capacity:
            raise InvalidRequest(
                f"`prompt`: {len(prompts)} prompts in one request, and a replica processes {engine.capacity} at once",
                param="prompt",
                hint="Send several requests",
            )
        params = [f"prompt[{index}]" for index in range(len(prompts))] if len(prompts) > 1 else ["prompt"]
        return [_prompt(prompt, engine, param=param) for prompt, param in zip(prompts, params, strict=True)]

    def _several(self) -> Sequence[str | list[int]]:
        """Return the prompts as a list, also if the body has only one."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        texts = [each for each in prompt if not isinstance(each, int)]
        return texts or [[each for each in prompt if isinstance(each, int)]]


class TokenizeBody(Body):
    """POST /tokenize: a text, or a conversation."""

    off: ClassVar = {**OFF, "return_token_strs": (False,)}

    prompt: str | None = None
    messages: list[Message] | None = Field(default=None, min_length=1, max_length=MAX_MESSAGES)
    add_special_tokens: bool | None = None

    def tokens(self, engine: TextEngine) -> list[int]:
        """Return the token ids."""
        given = "prompt" if self.messages is None else "messages"
        if self.add_special_tokens not in (None, given == "prompt"):
            raise UnsupportedParameter(
                f"`add_special_tokens: {str(self.add_special_tokens).lower()}` is not supported with `{given}`",
                param="add_special_tokens",
                hint="Leave it out",
            )
        if self.messages is not None and self.prompt is None:
            return engine.encode_chat(Chat(tuple(_turn(message) for message in self.messages)))
        if self.prompt is not None and self.messages is None:
            return engine.encode(self.prompt)
        raise InvalidRequest("either `prompt` or `messages` is needed", param="prompt")


class DetokenizeBody(Body):
    """POST /detokenize."""

    tokens: list[int]


def checked_tokens(tokens: list[int], engine: TextEngine, *, param: str) -> list[int]:
    """Return the token ids after a check: an unknown one would fail the step of the whole batch."""
    if not all(0 <= token < engine.vocabulary for token in tokens):
        raise InvalidRequest(f"`{param}`: a token id is a number from 0 to {engine.vocabulary - 1}", param=param)
    return tokens


def _prompt(prompt: str | list[int], engine: TextEngine, *, param: str) -> Prompt:
    if isinstance(prompt, list):
        return Prompt(checked_tokens(prompt, engine, param=param), param)
    _check_size(prompt, engine, param=param)
    tokens = engine.encode(prompt)
    if not tokens:
        raise InvalidRequest(f"`{param}` is empty", param=param, hint="Send some text")
    return Prompt(tokens, param)


def _check_size(text: str, engine: TextEngine, *, param: str) -> None:
    """Reject text that cannot fit, before it is tokenized: megabytes take seconds."""
    size = len(text.encode(errors="surrogatepass"))
    if size > engine.model_len * engine.longest_token:
        raise ContextLengthExceeded(
            f"the model length is {engine.model_len} tokens, and {size} bytes of text are more in any case",
            param=param,
            hint="Shorten the prompt",
        )


def _turn(message: Message) -> ChatMessage:
    """Return one message for the chat template. Parts are joined by line breaks, as in vLLM."""
    role = "system" if message.role == "developer" else message.role
    content = message.content
    text = content if isinstance(content, str) else "\n".join(part.text for part in content)
    return ChatMessage(role, text, message.name)
