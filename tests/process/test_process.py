"""A child process that is ours."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from local.local_cluster import SECONDS, eventually, until_file

from headrace.process import Process, spawn

PARENT = """
import asyncio, os, pathlib, sys
from headrace.process import spawn
async def main():
    child = spawn(["sleep", "600"], os.environ, pathlib.Path(os.devnull))
    print(child.pid, flush=True)
    await child.wait()
asyncio.run(main())
"""
DEAF = "trap '' TERM; echo ready; while true; do sleep 600; done"


def sh(script: str, log: Path) -> Process:
    return spawn(["sh", "-c", script], os.environ, log)


def is_gone(pid: int) -> bool:
    """Whether it ended; whose child it became may not have reaped it yet."""
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "\nState:\tZ" in status.read_text()


async def test_process_when_it_ends_tells_its_code_and_its_output(tmp_path: Path) -> None:
    process = sh("echo out; echo err >&2; exit 3", tmp_path / "log")
    assert await process.wait() == 3
    assert (tmp_path / "log").read_text() == "out\nerr\n"


async def test_process_when_started_then_no_input_and_own_session(tmp_path: Path) -> None:
    process = sh("cat; ps -o sid= -p $$", tmp_path / "log")
    assert await process.wait() == 0
    assert int((tmp_path / "log").read_text()) == process.pid


async def test_process_when_started_then_only_given_descriptors(tmp_path: Path) -> None:
    given, kept = os.pipe()
    os.set_inheritable(kept, True)
    process = spawn(["ls", "/proc/self/fd"], os.environ, tmp_path / "log", pass_fds=[given])
    await process.wait()
    open_in_child = {int(number) for number in (tmp_path / "log").read_text().split()}
    assert given in open_in_child
    assert kept not in open_in_child
    os.close(given)
    os.close(kept)


async def test_process_when_the_command_does_not_exist_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        spawn(["/no/such/command"], os.environ, tmp_path / "log")


async def test_process_when_stopped_then_gets_sigterm_and_grace_period(tmp_path: Path) -> None:
    process = sh("trap 'echo bye; exit 7' TERM; echo ready; while true; do sleep 0.01; done", tmp_path / "log")
    await until_file(tmp_path / "log")
    assert await process.stop(SECONDS) == 7
    assert (tmp_path / "log").read_text() == "ready\nbye\n"


async def test_process_when_deaf_to_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    process = sh(DEAF, tmp_path / "log")
    await until_file(tmp_path / "log")
    assert await process.stop(0.1) == -signal.SIGKILL


async def test_process_when_it_ends_takes_its_grandchildren_with_it(tmp_path: Path) -> None:
    process = sh("sleep 600 & echo $!; exit 0", tmp_path / "log")
    assert await process.wait() == 0
    grandchild = int((tmp_path / "log").read_text())
    await eventually(lambda: is_gone(grandchild))


async def test_process_when_signalled_after_its_end_disturbs_nobody(tmp_path: Path) -> None:
    process = sh("exit 0", tmp_path / "log")
    await process.wait()
    process.signal(signal.SIGKILL)
    assert await process.stop(SECONDS) == 0


async def test_process_when_its_parent_is_killed_dies_too() -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    parent.kill()
    await parent.wait()
    await eventually(lambda: is_gone(child))
