"""Serialization of answers.

The chunks of a stream differ only in their text, so everything around it is encoded once per request; a step costs one
JSON string between two constants per stream.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any

from headrace.http.answers import CURSOR, DONE
from headrace.serving.engine import FinishReason, GenerationRequest
from headrace.serving.openai.requests import StreamOptions
from headrace.serving.openai.streams import Step


@dataclass(frozen=True, slots=True)
class Shape:
    """The format of one of the two endpoints."""

    prefix: str
    """Prefix of the answer's id."""
    whole: str
    chunk: str
    message: Callable[[str], dict[str, Any]]
    """An answer's text in a choice of a whole answer."""
    delta: Callable[[str], dict[str, Any]]
    """A piece of text in a choice of a chunk."""
    opening: dict[str, Any] | None
    """Content of the first chunk of each choice; None: there is no such chunk."""
    closing: dict[str, Any]
    """Content of the chunk with the finish reason."""


CHAT = Shape(
    prefix="chatcmpl",
    whole="chat.completion",
    chunk="chat.completion.chunk",
    message=lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": None},
    delta=lambda text: {"delta": {"content": text}},
    opening={"delta": {"role": "assistant", "content": ""}},
    closing={"delta": {}},
)
TEXT = Shape(
    prefix="cmpl",
    whole="text_completion",
    chunk="text_completion",
    message=lambda text: {"text": text, "logprobs": None},
    delta=lambda text: {"text": text, "logprobs": None},
    opening=None,
    closing={"text": "", "logprobs": None},
)


@dataclass(slots=True)
class Choice:
    """The answer to one of a request's prompts."""

    index: int
    completion_tokens: int = 0
    cursor: int = 0
    """Tokens whose text was written (see `Delta.cursor`)."""
    finish_reason: FinishReason | None = None
    texts: list[str] = field(default_factory=list)
    """Texts of an answer without streaming."""
    before: bytes = b""
    after: bytes = b""
    """The parts of a chunk around its text."""


class Answer:
    """The answer to one request: counts its tokens and serializes it, as a whole or in chunks."""

    def __init__(
        self,
        shape: Shape,
        model: str,
        requests: Sequence[GenerationRequest],
        options: StreamOptions | None,
        *,
        cursors: bool = False,
    ) -> None:
        self.prompt_tokens = sum(len(request.prompt_tokens) for request in requests)
        self.choices = [Choice(index) for index in range(len(requests))]
        self.complete = False
        """Whether each choice has its finish reason."""
        self._unfinished = len(requests)
        self._shape = shape
        self._head = {"id": f"{shape.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._cursors = cursors
        self._usage_at_end = options is not None and bool(options.include_usage)
        self._usage_always = options is not None and bool(options.continuous_usage_stats)

    @property
    def completion_tokens(self) -> int:
        """Return the tokens of all choices so far."""
        return sum(choice.completion_tokens for choice in self.choices)

    @property
    def finish_reasons(self) -> list[FinishReason]:
        """Return the finish reasons of the choices that have ended."""
        return [choice.finish_reason for choice in self.choices if choice.finish_reason is not None]

    @property
    def usage(self) -> dict[str, int]:
        """Return the tokens so far in OpenAI's format: of all prompts and choices together."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def add(self, step: Step) -> None:
        """Add a step of an answer without streaming."""
        self._count(step).texts.append(step.delta.text)

    def whole(self) -> dict[str, Any]:
        """Return the whole answer."""
        choices = [
            {"index": each.index, **self._shape.message("".join(each.texts)), "finish_reason": each.finish_reason}
            for each in self.choices
        ]
        return {**self._head, "object": self._shape.whole, "choices": choices, "usage": self.usage}

    def open(self) -> bytes:
        """Return the first events of a stream."""
        mark, events = "\x00", b""
        for choice in self.choices:
            frame = self._chunk(choice, self._shape.delta(mark))
            choice.before, _, choice.after = frame.partition(encode_basestring(mark).encode())
            if self._shape.opening is not None:
                events += self._chunk(choice, self._shape.opening)
        return events

    def chunk(self, step: Step) -> bytes:
        """Return the events of a step, with their cursor if cursors were requested.

        Empty if the step added no text (a character or a possible stop string is incomplete).
        """
        choice, text = self._count(step), step.delta.text
        if not text:
            events = b""
        elif self._usage_always:
            events = self._chunk(choice, self._shape.delta(text))
        else:
            events = choice.before + encode_basestring(text).encode() + choice.after
        if choice.finish_reason is not None:
            events += self._chunk(choice, self._shape.closing, choice.finish_reason)
        return self._cursor() + events if self._cursors and events and step.delta.cursor is not None else events

    def close(self) -> bytes:
        """Return the last events of a stream."""
        if not self._usage_at_end:
            return DONE
        return _event({**self._head, "object": self._shape.chunk, "choices": [], "usage": self.usage}) + DONE

    def _count(self, step: Step) -> Choice:
        choice, delta = self.choices[step.index], step.delta
        choice.completion_tokens += len(delta.token_ids)
        if delta.cursor is not None:
            choice.cursor = delta.cursor
        if delta.finish_reason is not None:
            choice.finish_reason = delta.finish_reason
            self._unfinished -= 1
            self.complete = not self._unfinished
        return choice

    def _cursor(self) -> bytes:
        """Return the comment before an event. It covers all choices, so that a reader needs only the last one."""
        return CURSOR + ",".join(str(choice.cursor) for choice in self.choices).encode() + b"\n\n"

    def _chunk(self, choice: Choice, content: dict[str, Any], finish: FinishReason | None = None) -> bytes:
        written = {"index": choice.index, **content, "finish_reason": finish}
        chunk: dict[str, Any] = {**self._head, "object": self._shape.chunk, "choices": [written]}
        if self._usage_always:
            chunk["usage"] = self.usage
        elif self._usage_at_end:
            chunk["usage"] = None  # OpenAI's documentation: null in all but the last
        return _event(chunk)


def _event(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
