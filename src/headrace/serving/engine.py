"""The interface between the serving shell and an engine."""

from __future__ import annotations

from array import array
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # models use this module, and load while the server's libraries are imported
    from prometheus_client.core import Metric

    from headrace.events.messages import Load

Progress = Callable[[str, int | None], None]
"""Called with the stage (kebab-case) and its progress in percent, from the thread that loads an engine."""


class FinishReason(StrEnum):
    """Why a generation ended, with OpenAI's values."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens. temperature 0 is greedy; `seed` makes a sampled run repeatable, whatever the batch."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    seed: int | None = None
    min_p: float = 0.0
    """Least probability relative to the most likely token's."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    """Of tokens of the answer, as in OpenAI's API."""
    repetition_penalty: float = 1.0
    """Of tokens of prompt and answer, as in vLLM's."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, number added to its logit)."""


@dataclass(frozen=True, slots=True)
class StopConditions:
    """When an answer ends, besides where the model ends it."""

    max_tokens: int
    strings: tuple[str, ...] = ()
    token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    """Whether the model cannot end the answer."""
    min_tokens: int = 0
    """Tokens within which neither the model, a stop token nor a stop string ends the answer."""
    include_string: bool = False
    """Whether the text contains the stop string."""


class ConstraintKind(StrEnum):
    """The language of a constraint."""

    JSON_SCHEMA = "json-schema"
    REGEX = "regex"
    GRAMMAR = "grammar"
    """Lark's."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the text of an answer must match."""

    kind: ConstraintKind
    text: str
    """The schema (JSON), the expression or the grammar."""
    param: str
    """The request's field, for errors."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt, and how to answer it. What else an endpoint passes to an engine becomes a field here."""

    prompt_tokens: tuple[int, ...]
    sampling: Sampling
    stop: StopConditions
    cursors: bool = False
    """Whether the deltas shall have cursors: text is then released in whole tokens only, which may delay it."""
    logprobs: int | None = None
    """Alternatives per token whose log probabilities are reported beside the token's own; None: nothing is."""
    prompt_logprobs: int | None = None
    """The same for the prompt's tokens."""
    constraint: Constraint | None = None
    adapter: str = ""
    """Name of a LoRA adapter; empty: none."""
    answer_tokens: tuple[int, ...] = ()
    """Tokens of the answer that exist already, up to a cursor: the deltas continue after their text."""
    tenant: str = ""
    """The request's `cache_salt`: requests share cached prefixes only with those of the same. It separates the users of
    one model. Namespaces need none: a replica serves the models of one."""
    special_tokens: bool = False
    """Whether the text contains special tokens: a parser of tool calls needs them."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log probability of a token under the model's own distribution, before sampling parameters."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens with theirs, in descending order."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step adds to one answer. `text` may be empty (an incomplete UTF-8 sequence, or a possible stop)."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    cursor: int | None = None
    """Tokens whose text is exactly that of the deltas up to this one; in the last delta, all tokens of the answer.
    None: the request has no cursors, or the engine cannot resume an answer."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of `token_ids`, if requested."""
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    """In the first delta, of the prompt's tokens, if requested; None for the first token, which follows nothing."""
    cached_tokens: int = 0
    """In the first delta, tokens of the prompt whose keys and values were cached."""


@dataclass(slots=True)
class EngineCounters:
    """Totals of an engine since its start; written by the engine, read by metrics."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    step_tokens: int = 0
    finished: int = 0
    cancelled: int = 0
    prefix_queries: int = 0
    """Tokens of prompts that were looked up in the prefix cache."""
    prefix_hits: int = 0
    """Of these, tokens whose keys and values were cached."""
    preemptions: int = 0
    adapter_tokens: int = 0
    """Of `step_tokens`, those of requests with a LoRA adapter."""
    drafted: int = 0
    """Tokens that speculation proposed."""
    accepted: int = 0
    """Of these, tokens that the model confirmed."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool in an assistant's message. `arguments`: JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn, as a chat template takes it."""

    role: str
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    """Of the role assistant."""
    tool_call_id: str | None = None
    """Of the role tool: the call that it answers."""
    reasoning: str = ""
    """Of the role assistant: the text that came before its answer."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters`: a JSON schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Which tools an answer may or must call."""

    tools: tuple[Tool, ...]
    required: bool = False
    """Whether the answer must be a call."""
    name: str = ""
    """The only tool that may be called; empty: any."""
    parallel: bool = True
    """Whether several calls are allowed."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation to be answered."""

    messages: tuple[ChatMessage, ...]
    tool_use: ToolUse | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)
    """Variables of the template (`chat_template_kwargs`), such as enable_thinking."""


@dataclass(frozen=True, slots=True)
class MessagePart:
    """A piece of an answer after parsing. Exactly one of `content`, `reasoning` and `call` is set."""

    content: str = ""
    reasoning: str = ""
    call: int | None = None
    """Index of a tool call. `call_id` and `name` are set in its first part; `arguments` is what it adds."""
    call_id: str = ""
    name: str = ""
    arguments: str = ""


class MessageParser(Protocol):
    """Splits the text of one answer into content, reasoning and tool calls, as it arrives."""

    def feed(self, text: str) -> list[MessagePart]:
        """Return the parts that the text completes; the beginning of a marker is held back."""

    def finish(self) -> list[MessagePart]:
        """Return the rest; an incomplete call is content."""


class Engine(Protocol):
    """The interface of every engine. Methods are called on the event loop and do not block it, except where noted."""

    capacity: int
    """Requests that it accepts at once, running and queued."""
    counters: EngineCounters

    @property
    def healthy(self) -> bool:
        """False if it can serve no requests and the process must be restarted."""

    def load(self) -> Load:
        """Return how busy the engine is now; what it reports of its own is added by `Load.with_extra`."""

    def metrics(self, model: str) -> Iterable[Metric]:
        """Return the Prometheus metrics of the engine's own, labelled with the model (`headrace.serving.metrics`)."""

    async def close(self) -> None:
        """Stop the engine and release its resources."""


class TextEngine(Engine, Protocol):
    """An engine that turns tokens into text."""

    model_len: int
    """Longest prompt + completion, tokens."""
    vocabulary: int
    """Number of token ids."""
    longest_token: int
    """Maximum bytes of text per token: a text that is too long whatever its tokens is rejected without encoding it."""

    # The next five are called in threads, because a long text takes seconds; the first three must release the
    # interpreter.

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, without special tokens added."""

    def encode_chat(self, chat: Chat) -> list[int]:
        """Return the token ids of a conversation through the model's chat template, ready for the answer.

        Raises InvalidRequest if the template rejects the conversation or has no form for tools.
        """

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids, without special tokens."""

    def parser(self, chat: Chat) -> MessageParser | None:
        """Return a new parser for an answer to the conversation; None: the whole text of an answer is its content."""

    def tool_constraint(self, tool_use: ToolUse, template_options: Mapping[str, Any]) -> Constraint | None:
        """Return what an answer must match so that it calls the tools as required; None: any text.

        With `template_options` the prompt may end within reasoning, or after it (`enable_thinking`).

        Raises UnsupportedParameter if the model's template has no form for tools.
        """

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Yield deltas until one has a finish reason. Closing the iterator cancels within one step.

        Raises subclasses of `headrace.errors.HeadraceError`: saturated (429), a prompt too long (400). These are raised
        before the first await, so that the answers to several prompts start together or not at all.
        """

    async def embed(self, prompts: Sequence[tuple[int, ...]]) -> list[array[float]]:
        """Return one vector per prompt: [width] of type code "f", of length 1.

        Raises UnsupportedParameter if the model has no embeddings, Saturated, ContextLengthExceeded.
        """

    async def load_adapter(self, name: str, path: Path) -> None:
        """Load a LoRA adapter from a directory; requests name it in `GenerationRequest.adapter`.

        Raises InvalidRequest if the name is taken or the adapter does not fit the model.
        """

    async def unload_adapter(self, name: str) -> None:
        """Unload an adapter; requests that use it end first. Raises ModelNotFound if it is not loaded."""

    def adapters(self) -> tuple[str, ...]:
        """Return the names of the loaded adapters."""
