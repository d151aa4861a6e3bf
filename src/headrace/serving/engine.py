"""The interface between the serving shell and an engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from prometheus_client.core import Metric

from headrace.events.messages import Load

Progress = Callable[[str, int | None], None]
"""Called with the stage (kebab-case) and its progress in percent, from the thread that loads an engine."""


class FinishReason(StrEnum):
    """Why a generation ended, with OpenAI's values."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens. temperature 0 is greedy; `seed` makes a sampled run repeatable."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class StopConditions:
    """When an answer ends, besides where the model ends it."""

    max_tokens: int
    strings: tuple[str, ...] = ()
    token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    """Whether the model cannot end the answer."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt, and how to answer it. What else an endpoint passes to an engine becomes a field here."""

    prompt_tokens: tuple[int, ...]
    sampling: Sampling
    stop: StopConditions
    cursors: bool = False
    """Whether the deltas shall have cursors: text is then released in whole tokens only, which may delay it."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step adds to one answer. `text` may be empty (an incomplete UTF-8 sequence, or a possible stop)."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    cursor: int | None = None
    """Tokens whose text is exactly that of the deltas up to this one; in the last delta, all tokens of the answer.
    None: the request has no cursors, or the engine cannot resume an answer."""


@dataclass(slots=True)
class EngineCounters:
    """Totals of an engine since its start; written by the engine, read by metrics."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    step_tokens: int = 0
    finished: int = 0
    cancelled: int = 0


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn, as a chat template takes it."""

    role: str
    content: str
    name: str | None = None


class Engine(Protocol):
    """The interface of every engine. Methods are called on the event loop and do not block it, except where noted."""

    capacity: int
    """Requests that it accepts at once, running and queued."""
    counters: EngineCounters
    healthy: bool
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

    # The next three are called in threads, because a long text takes seconds; they must release the interpreter.

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, without special tokens added."""

    def encode_chat(self, messages: list[ChatMessage]) -> list[int]:
        """Return the token ids of a conversation through the model's chat template, ready for the answer."""

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids, without special tokens."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Yield deltas until one has a finish reason. Closing the iterator cancels within one step.

        Raises subclasses of `headrace.errors.HeadraceError`: saturated (429), a prompt too long (400). These are raised
        before the first await, so that the answers to several prompts start together or not at all.
        """
