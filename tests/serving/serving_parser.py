"""The echo's own notation of reasoning and tool calls, and its parser.

An answer is `<think>…</think>text<call>name {"json": …}</call>`.
"""

from __future__ import annotations

from itertools import count

from headrace.serving.engine import MessagePart

OPENINGS = {"<think>": "reasoning", "<call>": "call"}
CLOSINGS = {"reasoning": "</think>", "call": "</call>"}


class EchoParser:
    """A character at a time, which is slow and plain."""

    def __init__(self) -> None:
        self._mode = "content"
        self._held = ""
        self._calls = count()
        self._call = -1
        self._named = False

    def feed(self, text: str) -> list[MessagePart]:
        parts: list[MessagePart] = []
        for character in text:
            self._held += character
            parts += self._advance()
        return parts

    def finish(self) -> list[MessagePart]:
        rest, self._held = self._held, ""
        return self._part(rest) if rest else []

    def _advance(self) -> list[MessagePart]:
        held = self._held
        markers = list(OPENINGS) if self._mode == "content" else [CLOSINGS[self._mode]]
        if held in markers:
            self._held, self._mode = "", OPENINGS.get(held, "content")
            self._named = False
            return []
        if any(marker.startswith(held) for marker in markers):
            return []
        if self._mode == "call" and not self._named:
            if not held.endswith(" "):
                return []
            self._held, self._named, self._call = "", True, next(self._calls)
            return [MessagePart(call=self._call, call_id=f"call_{self._call}", name=held.strip())]
        self._held = ""
        return self._part(held)

    def _part(self, text: str) -> list[MessagePart]:
        if self._mode == "call":
            return [MessagePart(call=self._call, arguments=text)]
        return [MessagePart(reasoning=text) if self._mode == "reasoning" else MessagePart(content=text)]
