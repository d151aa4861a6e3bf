"""Reasoning before an answer: `<think>...</think>`, of DeepSeek-R1, Qwen 3, SmolLM3 and models made from them.

Some chat templates write the opening marker themselves, so that the model begins inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from headrace.serving.engine import MessageParser, MessagePart
from headrace_models.dialects.call_reader import SPACE

THINK, END_THINK = "<think>", "</think>"


def reasons(template: str, special: frozenset[str]) -> bool:
    """Return whether a model may write reasoning, by its chat template and the texts of its special tokens."""
    return any(marker in template or marker in special for marker in (THINK, END_THINK))


class _State(Enum):
    """Where in the answer the text is."""

    START = auto()
    REASONING = auto()
    ANSWER = auto()


@dataclass(frozen=True, slots=True)
class _Split:
    """What a piece of text adds."""

    reasoning: str = ""
    rest: str = ""


class ReasoningSplitter:
    """Splits the reasoning from what follows. Whitespace at both ends of the reasoning is dropped, and after it.

    `opened`: whether the prompt ends with the opening marker. The answer is then reasoning until the closing one.
    """

    def __init__(self, *, opened: bool) -> None:
        self._opened = opened
        self._state = _State.START
        self._text = ""
        self._trims = False
        """Whether whitespace at the beginning of the rest of the text is dropped."""

    def feed(self, text: str) -> _Split:
        """Return what the text completes."""
        self._text += text
        if self._state is _State.START:
            self._read_start()
        reasoning = self._take_reasoning() if self._state is _State.REASONING else ""
        return _Split(reasoning, self._take_rest() if self._state is _State.ANSWER else "")

    def finish(self) -> _Split:
        """Return the rest."""
        if self._state is _State.REASONING or (self._state is _State.START and self._opened):
            begins = self._trims or self._state is _State.START
            return _Split(reasoning=self._text.strip(SPACE) if begins else self._text.rstrip(SPACE))
        return _Split(rest="" if self._trims else self._text)

    def _read_start(self) -> None:
        stripped = self._text.lstrip(SPACE)
        if len(stripped) < len(THINK) and THINK.startswith(stripped):
            return
        opens = stripped.startswith(THINK)
        if opens:
            self._text = stripped.removeprefix(THINK)
        self._state = _State.REASONING if opens or self._opened else _State.ANSWER
        self._trims = self._state is _State.REASONING

    def _take_reasoning(self) -> str:
        if self._trims:
            self._text = self._text.lstrip(SPACE)
            self._trims = not self._text
        head, marker, tail = self._text.partition(END_THINK)
        if marker:
            self._state, self._text, self._trims = _State.ANSWER, tail, True
            return head.rstrip(SPACE)
        overlap = next((n for n in range(len(END_THINK) - 1, 0, -1) if head.endswith(END_THINK[:n])), 0)
        safe = head[: len(head) - overlap].rstrip(SPACE)
        self._text = head[len(safe) :]
        return safe

    def _take_rest(self) -> str:
        rest = self._text
        if self._trims:
            rest = rest.lstrip(SPACE)
            self._trims = not rest
        self._text = ""
        return rest


class ReasoningParser:
    """Implements `headrace.serving.engine.MessageParser` for reasoning, before what another parser reads."""

    def __init__(self, splitter: ReasoningSplitter, answer: MessageParser | None) -> None:
        self._splitter = splitter
        self._answer = answer

    def feed(self, text: str) -> list[MessagePart]:
        """Return the parts that the text completes."""
        return self._parts(self._splitter.feed(text))

    def finish(self) -> list[MessagePart]:
        """Return the rest."""
        return self._parts(self._splitter.finish()) + (self._answer.finish() if self._answer else [])

    def _parts(self, split: _Split) -> list[MessagePart]:
        parts = [MessagePart(reasoning=split.reasoning)] if split.reasoning else []
        if not split.rest:
            return parts
        return parts + (self._answer.feed(split.rest) if self._answer else [MessagePart(content=split.rest)])
