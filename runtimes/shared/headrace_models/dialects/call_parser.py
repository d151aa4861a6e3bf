"""A streaming parser of content and tool calls, for any `CallFormat`.

What is returned for a text does not depend on how it is cut into pieces: each decision is a function of the text so
far. Whitespace around calls is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum, auto

from headrace.serving.engine import MessagePart
from headrace_models.dialects.call_format import CallFormat
from headrace_models.dialects.call_reader import SPACE, CallReader


class _State(Enum):
    """What the parser expects next."""

    START = auto()
    """The beginning of the answer, where a call may come without a marker."""
    TEXT = auto()
    LIST = auto()
    """After the marker: the list's opening, if the format has one."""
    CALL = auto()
    SEPARATOR = auto()
    """After a call: another one, or the end of calls."""
    CLOSED = auto()
    """After calls: whitespace that is dropped."""


class CallParser:
    """Implements `headrace.serving.engine.MessageParser` for content and calls.

    A call is content if its tool is not one of `names`, if it is not well-formed up to its arguments, or if it is
    beyond the first and `parallel` is False. A call whose first part is returned remains a call, whatever follows.
    """

    def __init__(self, calls: CallFormat, names: Collection[str], *, parallel: bool, new_id: Callable[[], str]) -> None:
        self._format = calls
        self._names = names
        self._parallel = parallel
        self._new_id = new_id
        self._state = _State.START if calls.bare else _State.TEXT
        self._text = ""
        """Not read yet."""
        self._held = ""
        """Read, and content unless a call begins: whitespace, markers, the head of a call."""
        self._reader = CallReader(calls.arguments)
        self._calls = 0
        self._begun = False
        """Whether the first part of the present call is returned."""
        self._sent = 0
        """Length of its arguments that are returned."""

    def feed(self, text: str) -> list[MessagePart]:
        """Return the parts that the text completes."""
        self._text += text
        parts: list[MessagePart] = []
        while self._text and self._step(parts):
            pass
        return parts

    def finish(self) -> list[MessagePart]:
        """Return the rest: a call without the beginning of its arguments is content."""
        closed = self._state in (_State.SEPARATOR, _State.CLOSED)
        rest = "" if closed else self._held + self._text  # after a call: whitespace, and the beginning of its end
        self._held = self._text = ""
        return [MessagePart(content=rest)] if rest else []

    def _step(self, parts: list[MessagePart]) -> bool:
        """Read some of the text; return False if that needs more text."""
        match self._state:
            case _State.START:
                return self._read_start()
            case _State.TEXT:
                return self._read_content(parts)
            case _State.LIST:
                return self._read_list_opening(parts)
            case _State.CALL:
                return self._read_call(parts)
            case _State.SEPARATOR:
                return self._read_separator()
            case _State.CLOSED:
                self._text = self._text.lstrip(SPACE)
                if self._text:
                    self._state = _State.TEXT
                return bool(self._text)

    def _read_start(self) -> bool:
        stripped = self._text.lstrip(SPACE)
        if not stripped:
            return False
        self._state = _State.TEXT
        if stripped[0] == "{":
            self._hold(len(self._text) - len(stripped))
            self._begin_call()
        return True

    def _read_content(self, parts: list[MessagePart]) -> bool:
        """Return text as content up to a marker, or up to what may become one with the whitespace before it."""
        at = self._text.find(self._format.opening)
        found = at >= 0
        end = at if found else len(self._text) - _overlap(self._text, self._format.opening)
        content = self._text[:end].rstrip(SPACE)
        _add(parts, content)
        self._text = self._text[len(content) :]
        if found:
            self._hold(end - len(content) + len(self._format.opening))
            self._state = _State.LIST
        return found

    def _read_call(self, parts: list[MessagePart]) -> bool:
        reader, read = self._reader, 0
        for character in self._text:
            if reader.complete or not reader.read(character):
                break
            read += 1
            if reader.begun and not self._begun and not self._begin(parts, read):
                return True
        refused = read < len(self._text) and not reader.complete
        if self._begun:
            self._text = self._text[read:]
            self._pass_arguments(parts)
        else:
            self._hold(read)
        if refused or (reader.complete and not self._begun):
            self._give_up(parts)
        elif reader.complete:
            self._pass_arguments(parts, default="{}")
            self._state = _State.SEPARATOR
        return refused or reader.complete

    def _begin(self, parts: list[MessagePart], read: int) -> bool:
        """Return the first part of a call whose head is `_held` and the first `read` characters of the text."""
        assert self._reader.name is not None
        if self._reader.name not in self._names or (self._calls and not self._parallel):
            self._hold(read)
            self._give_up(parts)
            return False
        parts.append(MessagePart(call=self._calls, call_id=self._new_id(), name=self._reader.name))
        self._calls += 1
        self._begun, self._held = True, ""
        return True

    def _pass_arguments(self, parts: list[MessagePart], default: str = "") -> None:
        added = self._reader.arguments[self._sent :] or ("" if self._sent else default)
        self._sent += len(added)
        if added:
            parts.append(MessagePart(call=self._calls - 1, arguments=added))

    def _read_separator(self) -> bool:
        """Read what follows a call."""
        stripped = self._text.lstrip(SPACE)
        if not stripped:
            return False
        separator, closing = self._format.separator, self._format.closing
        if separator and stripped.startswith(separator):
            self._text = stripped
            self._hold(len(separator))
            self._begin_call()
        elif closing.startswith(stripped) and closing != stripped:
            return False
        else:
            self._text = stripped.removeprefix(closing)
            self._state = _State.CLOSED
        return True

    def _read_list_opening(self, parts: list[MessagePart]) -> bool:
        stripped = self._text.lstrip(SPACE)
        self._hold(len(self._text) - len(stripped))
        if not stripped:
            return False
        if stripped.startswith(self._format.list_opening):
            self._hold(len(self._format.list_opening))
            self._begin_call()
        else:
            self._give_up(parts)
        return True

    def _begin_call(self) -> None:
        self._reader = CallReader(self._format.arguments)
        self._begun, self._sent, self._state = False, 0, _State.CALL

    def _give_up(self, parts: list[MessagePart]) -> None:
        """What is held is no call."""
        _add(parts, self._held)
        self._held, self._state = "", _State.TEXT

    def _hold(self, length: int) -> None:
        self._held += self._text[:length]
        self._text = self._text[length:]


def _add(parts: list[MessagePart], content: str) -> None:
    if content:
        parts.append(MessagePart(content=content))


def _overlap(text: str, marker: str) -> int:
    """Return the length of the longest end of the text that begins the marker."""
    longest = min(len(text), len(marker) - 1)
    return next((length for length in range(longest, 0, -1) if marker.startswith(text[-length:])), 0)
