"""How answers are written.

The chunks of a stream differ only in their text, so everything around it is encoded once per request; what a step costs
per stream is one JSON string between two constants.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

from headrace.serving.engine import Delta, FinishReason
from headrace.serving.exchange import DONE
from headrace.serving.openai.requests import StreamOptions


@dataclass(frozen=True, slots=True)
class Shape:
    """How the two endpoints differ on the wire."""

    prefix: str
    """Of the answer's id."""
    whole: str
    chunk: str
    message: Callable[[str], dict[str, Any]]
    """An answer's text in a choice of a whole answer."""
    delta: Callable[[str], dict[str, Any]]
    """A piece of text in a choice of a chunk."""
    opening: dict[str, Any] | None
    """What a stream begins with, in its first choice."""
    closing: dict[str, Any]
    """What the choice with the finish reason holds besides."""


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


class Answer:
    """One answer in the making: counts its tokens and writes it, whole or in chunks."""

    def __init__(self, shape: Shape, model: str, prompt_tokens: int, options: StreamOptions | None) -> None:
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._shape = shape
        self._head = {"id": f"{shape.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._usage_at_end = options is not None and bool(options.include_usage)
        self._usage_always = options is not None and bool(options.continuous_usage_stats)
        self._texts: list[str] = []
        self._before, self._after = b"", b""

    @property
    def usage(self) -> dict[str, int]:
        """Return the tokens so far, as OpenAI counts them."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    def add(self, delta: Delta) -> None:
        """Take a step of an answer that is written whole."""
        self._count(delta)
        self._texts.append(delta.text)

    def whole(self) -> dict[str, Any]:
        """Return the whole answer."""
        choice = {"index": 0, **self._shape.message("".join(self._texts)), "finish_reason": self.finish_reason}
        return {**self._head, "object": self._shape.whole, "choices": [choice], "usage": self.usage}

    def open(self) -> bytes:
        """Return the events that a stream begins with."""
        mark = "\x00"
        frame = self._chunk(self._shape.delta(mark), None)
        self._before, _, self._after = frame.partition(encode_basestring(mark).encode())
        return b"" if self._shape.opening is None else self._chunk(self._shape.opening, None)

    def chunk(self, delta: Delta) -> bytes:
        """Return the event of a step; empty when it brought no text (a character or a possible stop is incomplete)."""
        self._count(delta)
        if not delta.text:
            return b""
        if self._usage_always:
            return self._chunk(self._shape.delta(delta.text), None)
        return self._before + encode_basestring(delta.text).encode() + self._after

    def close(self) -> bytes:
        """Return the events that a stream ends with."""
        events = self._chunk(self._shape.closing, self.finish_reason)
        if self._usage_at_end:
            events += _event({**self._head, "object": self._shape.chunk, "choices": [], "usage": self.usage})
        return events + DONE

    def _count(self, delta: Delta) -> None:
        self.completion_tokens += len(delta.token_ids)
        self.finish_reason = delta.finish_reason

    def _chunk(self, content: dict[str, Any], finish: FinishReason | None) -> bytes:
        choice = {"index": 0, **content, "finish_reason": finish}
        chunk: dict[str, Any] = {**self._head, "object": self._shape.chunk, "choices": [choice]}
        if self._usage_always:
            chunk["usage"] = self.usage
        elif self._usage_at_end:
            chunk["usage"] = None  # OpenAI's documentation: null in all but the last
        return _event(chunk)


def _event(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
