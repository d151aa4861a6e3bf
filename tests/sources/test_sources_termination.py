from __future__ import annotations

from pathlib import Path

import pytest

from headrace import environment, termination
from headrace.termination import write_termination_message


def test_message_when_a_place_is_named_then_stands_there_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "log"
    place.write_text("the much longer last words of an earlier life")
    monkeypatch.setenv(environment.TERMINATION_MESSAGE_PATH, str(place))

    write_termination_message("no space. Free some")

    assert place.read_text() == "no space. Free some"


def test_message_when_too_long_then_is_cut_between_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "log"
    monkeypatch.setenv(environment.TERMINATION_MESSAGE_PATH, str(place))

    write_termination_message("€" * 4000)

    assert place.read_text(encoding="utf-8") == "€" * (4096 // 3)


def test_message_when_path_is_not_writable_then_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.TERMINATION_MESSAGE_PATH, "/nowhere/log")

    write_termination_message("unheard")


def test_message_when_no_kubelet_made_the_path_then_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(environment.TERMINATION_MESSAGE_PATH, raising=False)
    monkeypatch.setattr(termination, "DEFAULT_PATH", str(tmp_path / "log"))

    write_termination_message("unheard")

    assert not (tmp_path / "log").exists()
