"""One answer of the engine, as it arrives: its text or parts, its log probabilities, and how it ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.serving.engine import (
    Delta,
    FinishReason,
    GenerationRequest,
    MessageParser,
    MessagePart,
    TokenLogprob,
)
from headrace.serving.exchange import Exchange
from headrace.serving.openai.plan import Plan
from headrace.serving.openai.streams import Step


@dataclass(slots=True)
class Call:
    """A tool call, as far as it has arrived."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Choice:
    """The answer to one of the engine's requests."""

    index: int
    request: GenerationRequest
    parser: MessageParser | None = None
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    """Tokens of the steps that added reasoning and nothing else."""
    cursor: int = 0
    """Tokens whose text was written (see `Delta.cursor`)."""
    finish_reason: FinishReason | None = None
    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, Call] = field(default_factory=dict)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    offset: int = 0
    """Length of the text of the tokens whose log probabilities were written."""
    opened: bool = False
    """Whether the echo of the prompt was written."""
    before: bytes = b""
    after: bytes = b""
    """The parts of a chunk around its text."""

    @property
    def mean_logprob(self) -> float:
        """Return the mean log probability per token, by which the best of several answers are chosen."""
        return sum(each.logprob for each in self.logprobs) / max(len(self.logprobs), 1)

    def count(self, delta: Delta) -> None:
        """Note everything of a delta but its text."""
        self.completion_tokens += len(delta.token_ids)
        if delta.cached_tokens:
            self.cached_tokens = delta.cached_tokens
        if delta.cursor is not None:
            self.cursor = delta.cursor
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason

    def parts(self, delta: Delta) -> list[MessagePart]:
        """Return the parts that a delta completes. An answer that stops after a call ends with `tool_calls`."""
        if self.parser is None:
            return [MessagePart(content=delta.text)] if delta.text else []
        parts = self.parser.feed(delta.text) if delta.text else []
        if delta.finish_reason is not None:
            parts += self.parser.finish()
        if parts and all(part.reasoning for part in parts):
            self.reasoning_tokens += len(delta.token_ids)
        for part in parts:
            self._collect_call(part)
        if self.calls and self.finish_reason is FinishReason.STOP:
            self.finish_reason = FinishReason.TOOL_CALLS
        return parts

    def collect(self, delta: Delta) -> None:
        """Keep the text and the log probabilities of a delta, for a whole answer."""
        for part in self.parts(delta):
            self.texts.append(part.content)
            self.reasoning.append(part.reasoning)
        self.logprobs += delta.logprobs
        self.prompt_logprobs = self.prompt_logprobs or delta.prompt_logprobs

    def _collect_call(self, part: MessagePart) -> None:
        if part.call is None:
            return
        call = self.calls.setdefault(part.call, Call(part.call_id, part.name))
        call.arguments += part.arguments


class Answer(ABC):
    """The answers to one HTTP request: counts their tokens. Subclasses serialize them, as a whole or as a stream."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        parsers: Sequence[MessageParser | None] = plan.parsers or (None,) * len(plan.requests)
        self.choices = [
            Choice(index, request, parser)
            for index, (request, parser) in enumerate(zip(plan.requests, parsers, strict=True))
        ]
        self.complete = False
        """Whether each choice has its finish reason."""
        self._unfinished = len(self.choices)

    @property
    def prompt_tokens(self) -> int:
        """Return the tokens of all prompts; a prompt with several answers counts once."""
        return sum(len(choice.request.prompt_tokens) for choice in self._firsts())

    @property
    def cached_tokens(self) -> int:
        """Return the tokens of prompts whose keys and values were cached."""
        return sum(choice.cached_tokens for choice in self._firsts())

    @property
    def completion_tokens(self) -> int:
        """Return the tokens of all answers so far."""
        return sum(choice.completion_tokens for choice in self.choices)

    @property
    def finish_reasons(self) -> list[FinishReason]:
        """Return the finish reasons of the answers that have ended."""
        return [choice.finish_reason for choice in self.choices if choice.finish_reason is not None]

    def add(self, step: Step) -> None:
        """Add a step of an answer without streaming."""
        self.count(step).collect(self.kept(step.delta))

    def count(self, step: Step) -> Choice:
        """Count the tokens of a step and return its choice."""
        choice = self.choices[step.index]
        choice.count(self.kept(step.delta))
        if step.delta.finish_reason is not None:
            self._unfinished -= 1
            self.complete = not self._unfinished
        return choice

    def kept(self, delta: Delta) -> Delta:
        """Return the delta as the client gets it: of an answer that is only an echo, no text of its own."""
        return replace(delta, text="", token_ids=(), logprobs=()) if self.plan.only_echo else delta

    @abstractmethod
    def whole(self) -> dict[str, Any]:
        """Return the whole answer."""

    async def respond(self, exchange: Exchange) -> None:
        """Send the whole answer."""
        await exchange.respond(self.whole())

    @abstractmethod
    def open(self) -> bytes:
        """Return the first events of a stream."""

    @abstractmethod
    def chunk(self, step: Step) -> bytes:
        """Return the events of a step; empty if there is nothing to send."""

    @abstractmethod
    def close(self) -> bytes:
        """Return the last events of a stream."""

    def _firsts(self) -> list[Choice]:
        return self.choices[:: self.plan.samples]
