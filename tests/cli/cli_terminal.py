"""A terminal of a test: a real pty for the command, and the screen that a person would see of what it wrote."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import sys
import termios
from collections.abc import Generator
from contextlib import contextmanager

import pytest

_END = "\x00"
_STEP = re.compile(r"\033\[(\d*)([AJK])|(.)", re.DOTALL)


class Screen:
    """What a terminal shows: carriage returns, new lines, wrapped lines, and the three sequences that headrace uses."""

    def __init__(self, columns: int, rows: int) -> None:
        self._columns = columns
        self._rows = rows
        self._lines: list[list[str]] = [[]]
        self._row = self._column = 0

    def feed(self, text: str) -> None:
        for count, command, char in _STEP.findall(text):
            if command == "A":
                self._row = max(self._row - int(count or 1), len(self._lines) - self._rows, 0)
            elif command == "J":
                del self._lines[self._row + 1 :]
                del self._lines[self._row][self._column :]
            elif command == "K":
                del self._lines[self._row][self._column :]
            elif char == "\r":
                self._column = 0
            elif char == "\n":
                self._down()
            else:
                self._put(char)

    @property
    def lines(self) -> list[str]:
        """The lines of the screen and of what scrolled off it, without the empty ones at the end."""
        return "\n".join("".join(line).rstrip() for line in self._lines).rstrip("\n").split("\n")

    def _put(self, char: str) -> None:
        if self._column == self._columns:
            self._column = 0
            self._down()
        line = self._lines[self._row]
        line += " " * (self._column + 1 - len(line))
        line[self._column] = char
        self._column += 1

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self._lines):
            self._lines.append([])


class Terminal:
    """A pty that standard output and standard error are."""

    def __init__(self, master: int, columns: int, rows: int) -> None:
        self._master = master
        self._screen = Screen(columns, rows)
        self._seen = ""

    def wait_for(self, text: str) -> None:
        """Return when that was written."""
        while text not in self._seen:
            received = os.read(self._master, 65536).decode()
            self._seen += received
            self._screen.feed(received.replace(_END, ""))

    def lines(self) -> list[str]:
        """Return what the screen shows after all that was written until now."""
        sys.stdout.write(_END)
        sys.stdout.flush()
        self.wait_for(_END)
        self._seen = ""
        return self._screen.lines


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 80, rows: int = 24) -> Generator[Terminal]:
    """Be a person at a terminal of that size."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with (
        os.fdopen(master, "rb", buffering=0),
        os.fdopen(slave, "w", encoding="utf-8") as out,
        os.fdopen(os.dup(slave), "w", encoding="utf-8") as err,
        monkeypatch.context() as patch,
    ):
        patch.setenv("COLUMNS", str(columns))
        patch.setenv("LINES", str(rows))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        yield Terminal(master, columns, rows)
