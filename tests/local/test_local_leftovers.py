"""What a killed supervisor may have left: only what is proved to be its own is ended."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.local.home import InstanceHome
from headrace.local.leftovers import LIFE_VARIABLE, Life, end_processes


@pytest.fixture
def home(tmp_path: Path) -> InstanceHome:
    home = InstanceHome.of("default", tmp_path)
    home.make()
    return home


@pytest.fixture
def life(home: InstanceHome) -> Life:
    life = Life.mine()
    life.begin(home)
    return life


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def sleeper(started: list[subprocess.Popen[bytes]], life_id: str | None) -> subprocess.Popen[bytes]:
    variables = {**os.environ, **({} if life_id is None else {LIFE_VARIABLE: life_id})}
    process = subprocess.Popen(
        [sys.executable, "-c", "print(1, flush=True); import time; time.sleep(600)"],
        env=variables,
        stdout=subprocess.PIPE,
    )
    started.append(process)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_leftover_process_of_the_life_is_ended(
    home: InstanceHome, life: Life, started: list[subprocess.Popen[bytes]]
) -> None:
    own, stranger, other = (sleeper(started, wanted) for wanted in (life.id, None, "f" * 32))
    assert end_processes(home) == 1
    assert own.wait(5) == -9
    assert stranger.poll() is None
    assert other.poll() is None


def test_process_older_than_the_life_is_not_ended(
    home: InstanceHome, life: Life, started: list[subprocess.Popen[bytes]]
) -> None:
    own = sleeper(started, life.id)
    dataclasses.replace(life, start_ticks=life.start_ticks + 10**9).begin(home)
    assert end_processes(home) == 0
    assert own.poll() is None


def test_leftovers_when_machine_was_rebooted_ends_nothing(
    home: InstanceHome, life: Life, started: list[subprocess.Popen[bytes]]
) -> None:
    own = sleeper(started, life.id)
    dataclasses.replace(life, boot="another").begin(home)
    assert end_processes(home) == 0
    assert own.poll() is None


def test_leftovers_when_last_life_ended_well_ends_nothing(
    home: InstanceHome, life: Life, started: list[subprocess.Popen[bytes]]
) -> None:
    own = sleeper(started, life.id)
    Life.end(home)
    assert end_processes(home) == 0
    assert own.poll() is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"id": 1}', "\0"])
def test_leftovers_when_the_note_is_broken_then_nothing_is_ended(home: InstanceHome, text: str) -> None:
    home.life.write_text(text)
    assert end_processes(home) == 0


def test_leftovers_when_asked_then_this_process_is_spared(home: InstanceHome, life: Life) -> None:
    started = time.monotonic()
    assert end_processes(home) == 0
    assert time.monotonic() - started < 5
