"""The home of a local instance: its paths, its lock, waiting for its end."""

from __future__ import annotations

import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.errors import CannotStart, HeadraceError, NotRunning, SystemFault
from headrace.local.home import InstanceHome, InvalidName, Record, wait_stopped

HOLDER = """
import sys
from pathlib import Path
from headrace.local.home import InstanceHome
home = InstanceHome.of("default", Path(sys.argv[1]))
with home.locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> InstanceHome:
    home = InstanceHome.of("default", tmp_path)
    home.make()
    return home


@pytest.fixture
def holder(home: InstanceHome) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its standard input is closed."""
    command = [sys.executable, "-c", HOLDER, str(home.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_home_when_made_is_closed_to_others(home: InstanceHome) -> None:
    for directory in (home.directory, home.nats, home.gateway, home.logs):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_home_when_it_was_open_to_others_is_closed(home: InstanceHome) -> None:
    home.directory.chmod(0o755)
    home.make()
    assert stat.S_IMODE(home.directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["", "A", "../x", "a/b", "a.b", "-a", "a-", "x" * 41])
def test_home_when_the_name_is_no_label_then_it_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        InstanceHome.of(name)


def test_home_when_it_cannot_be_made_then_the_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemFault, match=r"cannot make .*/file: File exists. Set HEADRACE_HOME to another"):
        InstanceHome.of("default", tmp_path / "file").make()


def test_is_running_when_nobody_holds_the_lock_is_false(home: InstanceHome) -> None:
    assert not home.is_running()
    with home.locked():
        pass
    assert not home.is_running()


def test_is_running_when_a_supervisor_holds_the_lock_is_true(home: InstanceHome, holder: subprocess.Popen[str]) -> None:
    assert home.is_running()


def test_lock_when_held_the_error_names_the_endpoint(home: InstanceHome, holder: subprocess.Popen[str]) -> None:
    Record("default", holder.pid, "0", "http://127.0.0.1:8080", "", "").write(home)
    with (
        pytest.raises(CannotStart, match=r"already running at http://127.0.0.1:8080.*headrace down"),
        home.locked(),
    ):
        pass


def test_lock_when_its_holder_is_killed_is_free(home: InstanceHome, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with home.locked():
        assert home.is_running()


def test_wait_stopped_when_the_supervisor_ends_returns(home: InstanceHome, holder: subprocess.Popen[str]) -> None:
    assert holder.stdin is not None
    started = time.monotonic()
    holder.stdin.close()
    wait_stopped(home, 20)
    assert time.monotonic() - started < 20
    assert not home.is_running()


def test_wait_stopped_when_it_does_not_end_in_time_says_so(home: InstanceHome, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(HeadraceError, match="did not stop"):
        wait_stopped(home, 0.05)


def test_record_when_written_is_private_and_read_back(home: InstanceHome) -> None:
    record = Record("default", 1, "0.1.0", "http://127.0.0.1:8080", "2026-01-01T00:00:00Z", str(home.directory))
    record.write(home)
    assert stat.S_IMODE(home.record.stat().st_mode) == 0o600
    assert Record.read(home) == record


def test_record_when_the_instance_is_not_up_says_so(home: InstanceHome) -> None:
    with pytest.raises(NotRunning):
        Record.read(home)
