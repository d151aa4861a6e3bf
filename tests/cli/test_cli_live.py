"""The live table of `headrace up`, on terminals that are smaller than it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from cli.cli_terminal import terminal

from headrace.cli import output
from headrace.cli.client import ApiClient
from headrace.cli.live import LiveView


def _model(name: str, message: str) -> dict[str, Any]:
    condition = {"type": "Ready", "status": "False", "reason": "Fetching", "message": message}
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"model": {"name": name}},
        "status": {"conditions": [condition]},
    }


@pytest.mark.parametrize("columns", [10, 40, 80, 200])
@pytest.mark.parametrize("message", ["fetching, " * 30, "模型" * 100, "two\nlines \033[2J" * 10])
def test_table_when_wider_than_terminal_then_lines_are_clipped(
    columns: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal(monkeypatch, columns=columns) as seen:
        view = LiveView(ApiClient(Path("nobody")))
        for percent in range(5):
            view._show("MODIFIED", _model("tiny", f"{percent}% {message}"))
        lines = seen.lines()
    assert len(lines) == 2
    assert lines[0].startswith("NAME")
    assert lines[1].startswith("tiny")
    assert all(output.width(line) <= columns for line in lines)


def test_table_when_higher_than_terminal_then_hidden_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with terminal(monkeypatch, rows=6) as seen:
        view = LiveView(ApiClient(Path("nobody")))
        for number in range(9):
            view._show("ADDED", _model(f"m{number}", "at zero"))
        lines = seen.lines()
    assert [line.split()[0] for line in lines] == ["NAME", "m0", "m1", "m2", "…"]
    assert "6 more" in lines[-1]


@pytest.mark.parametrize(("columns", "drawn"), [(60, 1), (200, 3)], ids=["clipped", "to be seen"])
def test_table_when_percent_changes_then_redrawn_only_if_visible(
    columns: int, drawn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal(monkeypatch, columns=columns):
        written: list[str] = []
        monkeypatch.setattr(sys.stdout, "write", written.append)
        view = LiveView(ApiClient(Path("nobody")))
        for percent in range(3):
            view._show("MODIFIED", _model("tiny", f"fetching {'a long address ' * 4} {percent}%"))
    assert len(written) == drawn


@pytest.mark.parametrize(
    ("text", "columns", "clipped"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("模型模", 6, "模型模"),
        ("模型模", 5, "模型…"),
        ("模型模", 4, "模…"),
        ("a\nb\tc", 9, "a b c"),
        ("e\u0301e\u0301", 2, "e\u0301e\u0301"),
    ],
)
def test_line_when_clipped_then_it_takes_no_more_columns(text: str, columns: int, clipped: str) -> None:
    assert output.clip(text, columns) == clipped
    assert output.width(clipped) <= columns
