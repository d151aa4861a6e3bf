"""What the operating system refuses: one line for a person, an exit code that tells, and never a traceback."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli.cli_gateway import DONE, HEAD, FakeGateway, said, sent
from cli.cli_session import FILE, TINY, serving_session
from disks import fill, small_disk
from local.local_cluster import job, owned_by

from headrace.cli.main import main
from headrace.local.home import InstanceHome
from headrace.reconcile.world import Child

SECONDS = 60.0
_PR_CAPBSET_DROP = 24
_ROOTS_RIGHTS = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
_LIBC = ctypes.CDLL(None)
COMMANDS = {
    "up": "up",
    "up --detach": "up --detach",
    "down": "down",
    "apply": "apply -f {file}",
    "get": "get mdep",
    "get --watch": "get mdep -o name --watch",
    "describe": "describe mdep/tiny",
    "delete": "delete mdep/tiny",
    "scale": "scale mdep/tiny --replicas 2",
    "logs": "logs pod/{pod}",
    "wait": "wait mdep/tiny",
    "chat": "chat tiny hello",
    "keys": "keys create app",
}
TALKATIVE = [name for name in COMMANDS if not name.startswith("up")]
"""Those whose output is what they are for."""


def obey_file_modes() -> None:
    """Take from root, in a child before it executes, the right to use what file modes forbid."""
    for capability in _ROOTS_RIGHTS:
        _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    said: str
    complained: str

    def complained_in_one_line(self) -> str:
        assert re.fullmatch(r"error: [^\n]+\n", self.complained), self.complained
        return self.complained


def headrace(
    home: Path | str,
    words: str,
    *,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    prepare: Callable[[], None] | None = None,
) -> Ended:
    variables = {**os.environ, "HEADRACE_HOME": str(home)}
    command = [sys.executable, "-m", "headrace.cli.main", *words.split()]
    ended = subprocess.run(
        command,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        check=False,
        encoding="utf-8",
        timeout=SECONDS,
        preexec_fn=prepare,
    )
    return Ended(ended.returncode, ended.stdout or "", ended.stderr or "")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(FILE)
    return path


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A home that may not be looked into."""
    directory = tmp_path / "closed"
    directory.mkdir(mode=0)
    yield directory
    directory.chmod(0o700)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_when_the_home_may_not_be_used_then_it_says_so(command: str, closed: Path, file: Path) -> None:
    ended = headrace(closed, COMMANDS[command].format(file=file, pod="x"), prepare=obey_file_modes)
    said = ended.complained_in_one_line()
    assert "Permission denied" in said
    assert str(closed) in said
    assert "or set HEADRACE_HOME to another directory" in said
    assert ended.code == 15


@pytest.mark.parametrize("command", COMMANDS)
def test_command_when_the_home_path_is_too_long_then_says_so(command: str, tmp_path: Path, file: Path) -> None:
    ended = headrace(tmp_path / ("x" * 300), COMMANDS[command].format(file=file, pod="x"))
    said = ended.complained_in_one_line()
    assert "File name too long" in said
    assert "255 bytes" in said
    assert ended.code == 16


@pytest.mark.parametrize("command", COMMANDS)
def test_command_when_the_home_is_a_file_then_it_says_so(command: str, file: Path) -> None:
    ended = headrace(file, COMMANDS[command].format(file=file, pod="x"))
    said = ended.complained_in_one_line()
    assert "Not a directory" in said or "File exists" in said
    assert "et HEADRACE_HOME to another directory" in said
    assert ended.code == 1


@pytest.mark.parametrize("command", ["up", "up --detach"])
def test_up_when_the_disk_is_full_then_says_how_much_is_needed(command: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "home", 64):
        ended = headrace(tmp_path / "home", command)
    said = ended.complained_in_one_line()
    assert f"{tmp_path / 'home/instances/default'} has no room for the 4 MiB that a start needs" in said
    assert "Free some space on its disk, or set HEADRACE_HOME" in said
    assert ended.code == 13


async def test_apply_when_instance_disk_is_full_then_says_so_and_heals(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    home = InstanceHome.of("default")
    with small_disk(home.root, 8 * 1024):
        async with serving_session(home, capsys) as session:
            filler = fill(home.root)
            long = FILE.replace("name: tiny", f"name: tiny, annotations: {{x: {'x' * 100_000}}}")
            file.write_text(long)
            code = await session.headrace("apply", "-f", str(file))
            assert re.fullmatch(r"error: [^\n]+\n", session.complained)
            assert f"cannot use {home.state}: No space left on device. Free some space" in session.complained
            assert code == 13
            await session.headrace("get", "mdep")
            assert "no modeldeployments" in session.complained
            filler.unlink()
            assert await session.headrace("apply", "-f", str(file)) == 0


@pytest.mark.parametrize(("command", "unbuffered"), [*((name, "") for name in TALKATIVE), ("get", "1"), ("logs", "1")])
async def test_command_when_output_disk_is_full_then_it_says_so(
    command: str,
    unbuffered: str,
    tmp_path: Path,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    home = InstanceHome.of("default")
    with FakeGateway(sent(HEAD + said("Paris.") + DONE)) as gateway, contextlib.ExitStack() as files:
        async with serving_session(home, capsys, gateway.endpoint) as session:
            await session.headrace("apply", "-f", str(file))
            ready = {"type": "Ready", "status": "True", "reason": "Idle", "message": "", "observedGeneration": 1}
            await session.cluster.write_status(TINY, {"conditions": [ready]})
            tiny = session.cluster.resource(TINY)
            assert tiny is not None
            await session.cluster.apply(TINY, owned_by(tiny, _talker()))
            pod = session.cluster.index.list("Pod")[0]["metadata"]["name"]
            words = COMMANDS[command].format(file=file, pod=f"{pod} -f" if command == "logs" else pod)
            full = files.enter_context(Path("/dev/full").open("wb"))
            ended = await asyncio.to_thread(headrace, home.root, words, stdout=full.fileno())
            if command != "chat":
                await asyncio.to_thread(headrace, home.root, COMMANDS["chat"])
    assert ended.complained_in_one_line() == (
        "error: cannot write to standard output: No space left on device. "
        "Free some space on its disk, or redirect the output\n"
    )
    assert ended.code == 13


def _talker() -> Child:
    """A pod that prints more than a buffer holds, and stays."""
    script = "head -c 100000 /dev/zero | tr '\\0' x; exec sleep 600"
    return job({"name": "main", "command": ["sh", "-c", script], "env": []}, name="tiny-fetch-1")


@pytest.mark.parametrize("command", ["version", "--version", "doctor", "--help", "get --help", ""])
def test_offline_command_when_output_disk_is_full_then_says_so(command: str, tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = headrace(tmp_path, command, stdout=full.fileno())
    assert "No space left on device" in ended.complained_in_one_line()
    assert ended.code == 13


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("command", "code"), [("get mdep", 3), ("apply -f missing", 2), ("nonsense", 2)])
def test_error_when_standard_error_is_full_then_exit_code_stays(
    command: str, code: int, unbuffered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with Path("/dev/full").open("wb") as full:
        ended = headrace(tmp_path / "home", command, stderr=full.fileno())
    assert ended.code == code


def test_command_when_working_directory_is_gone_then_home_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()

    def enter_and_remove() -> None:
        os.chdir(gone)
        gone.rmdir()

    said = headrace("relative", "get mdep", prepare=enter_and_remove).complained_in_one_line()
    assert "cannot use relative: No such file or directory" in said
    assert "standard output" not in said


def test_system_error_when_without_file_then_output_not_blamed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(InstanceHome, "of", fail)
    assert main(["get", "mdep"]) == 1
    assert capsys.readouterr().err == "error: a system call failed: Too many open files\n"


def test_doctor_when_home_is_unusable_then_a_line_has_a_remedy(closed: Path, tmp_path: Path) -> None:
    for home, cause in ((closed, "Permission denied"), (tmp_path / ("x" * 300), "File name too long")):
        ended = headrace(home, "doctor", prepare=obey_file_modes)
        line = next(line for line in ended.said.splitlines() if line.startswith("! home"))
        assert cause in line
        assert "set HEADRACE_HOME to another directory" in ended.said
        assert (ended.code, ended.complained) == (1, "")


@pytest.mark.parametrize(("command", "code"), [("version", 0), ("get mdep", 3)])
def test_command_when_nobody_reads_on_then_it_ends_as_it_would(tmp_path: Path, command: str, code: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = headrace(tmp_path, command, stdout=writing)
    os.close(writing)
    assert ended.code == code
    assert "roken pipe" not in ended.complained


def test_path_when_it_cannot_be_printed_then_shown_in_escapes(tmp_path: Path) -> None:
    """No UTF-8: what a file was called in another encoding."""
    ended = headrace(tmp_path, f"apply -f {os.fsdecode(bytes(tmp_path) + b'/caf%c' % 0xE9)}")
    assert "caf\\udce9: No such file or directory" in ended.complained_in_one_line()
    assert ended.code == 2


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines"])
def test_home_when_it_cannot_be_printed_then_it_is_refused(tmp_path: Path, name: bytes) -> None:
    ended = headrace(Path(os.fsdecode(bytes(tmp_path) + b"/" + name)), "get mdep")
    assert "HEADRACE_HOME is not printable text in UTF-8" in ended.complained_in_one_line()
    assert ended.code == 2


def test_home_when_the_user_has_none_then_the_way_out_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HOME", "HEADRACE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 12_345_678)  # of a container: in no list of users
    assert main(["get", "mdep"]) == 2
    assert "Set HEADRACE_HOME to a directory" in capsys.readouterr().err


def test_home_when_its_path_is_too_long_for_socket_then_it_works(tmp_path: Path) -> None:
    """Not running is all that is wrong."""
    assert headrace(tmp_path / ("x" * 150), "get mdep").code == 3
