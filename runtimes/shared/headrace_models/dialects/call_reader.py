"""An incremental reader of one tool call: a JSON object with a name and arguments."""

from __future__ import annotations

import json
from enum import Enum, auto

SPACE = " \t\r\n"
MAX_HEAD = 4096
"""Characters of a call before its arguments: more is no call. It bounds what is held back."""


class _At(Enum):
    """What the next character belongs to."""

    OBJECT = auto()
    KEY = auto()
    IN_KEY = auto()
    COLON = auto()
    VALUE = auto()
    IN_VALUE = auto()
    AFTER_VALUE = auto()
    END = auto()


_STRUCTURE = {
    _At.OBJECT: {"{": _At.KEY},
    _At.KEY: {'"': _At.IN_KEY, "}": _At.END},
    _At.COLON: {":": _At.VALUE},
    _At.AFTER_VALUE: {",": _At.KEY, "}": _At.END},
    _At.END: dict[str, _At](),
}
"""What follows each character between keys and values; whitespace may come anywhere."""


class CallReader:
    """Reads characters of an object; `name` and `arguments` are what it has found.

    It checks the structure of the object itself. Values are only measured: what the model writes as arguments is
    passed on as it is.
    """

    def __init__(self, arguments_key: str) -> None:
        self.name: str | None = None
        self.arguments = ""
        """JSON text of the arguments so far."""
        self._arguments_key = arguments_key
        self._at = _At.OBJECT
        self._key = ""
        self._text = ""
        """Of the present key or value, if it is needed."""
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._length = 0

    @property
    def complete(self) -> bool:
        """Whether the object has ended."""
        return self._at is _At.END

    @property
    def begun(self) -> bool:
        """Whether this is a call for certain: its name and the beginning of its arguments are known."""
        return self.name is not None and (bool(self.arguments) or self.complete)

    def read(self, character: str) -> bool:
        """Take one character; return False, and take nothing, if it cannot continue a call."""
        self._length += 1
        if self._length > MAX_HEAD and not self.begun:
            return False
        if self._at is _At.IN_KEY:
            return self._read_key(character)
        if self._at is _At.IN_VALUE:
            return self._read_value(character)
        if character in SPACE:
            return True
        if self._at is _At.VALUE:
            return self._begin_value(character)
        following = _STRUCTURE[self._at].get(character)
        if following is None:
            return False
        self._at, self._text = following, character
        return True

    def _read_key(self, character: str) -> bool:
        self._text += character
        if self._ends_string(character):
            key = _string(self._text)
            if key is None:
                return False
            self._key, self._at = key, _At.COLON
        return True

    def _begin_value(self, character: str) -> bool:
        if self._key == self._arguments_key and (character != "{" or self.arguments):
            return False
        if self._key == "name" and (character != '"' or self.name is not None):
            return False
        self._text, self._depth, self._in_string, self._at = "", 0, False, _At.IN_VALUE
        return self._read_value(character)

    def _read_value(self, character: str) -> bool:
        if self._in_string:
            self._keep(character)
            if self._ends_string(character):
                self._in_string = False
                return self._depth > 0 or self._end_value()
            return True
        if self._depth == 0 and self._text and character in ",}]" + SPACE:  # after a number or a literal
            return self._end_value() and (character in SPACE or self.read(character))
        self._keep(character)
        self._in_string = character == '"'
        if character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            return self._depth > 0 or (self._depth == 0 and self._end_value())
        return True

    def _keep(self, character: str) -> None:
        if self._key == self._arguments_key:
            self.arguments += character
            self._text = "."
        elif self._key == "name":
            self._text += character
        else:
            self._text = "."

    def _end_value(self) -> bool:
        self._at = _At.AFTER_VALUE
        if self._key == "name":
            self.name = _string(self._text)
            return self.name is not None
        return True

    def _ends_string(self, character: str) -> bool:
        """Return whether the character ends the string that it is in."""
        if self._escaped:
            self._escaped = False
            return False
        self._escaped = character == "\\"
        return character == '"'


def _string(text: str) -> str | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
