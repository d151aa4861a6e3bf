"""Reading a log that is written, trimmed and replaced meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from headrace.local.logs import CHUNK_BYTES, NoLog, check_log, read_log


async def whole(path: Path, tail_lines: int | None = None) -> str:
    return b"".join([chunk async for chunk in read_log(path, tail_lines=tail_lines, follow=False)]).decode()


@pytest.mark.parametrize(
    ("lines", "shown"), [(0, ""), (1, "c\n"), (2, "b\nc\n"), (3, "a\nb\nc\n"), (9, "a\nb\nc\n"), (None, "a\nb\nc\n")]
)
async def test_log_when_its_tail_is_asked_for_gives_that_many_lines(
    tmp_path: Path, lines: int | None, shown: str
) -> None:
    (tmp_path / "log").write_text("a\nb\nc\n")
    assert await whole(tmp_path / "log", lines) == shown


async def test_log_when_its_last_line_is_unfinished_counts_it(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a\nb")
    assert await whole(tmp_path / "log", 1) == "b"


async def test_log_tail_with_lines_longer_than_a_chunk(tmp_path: Path) -> None:
    long = "x" * (2 * CHUNK_BYTES)
    (tmp_path / "log").write_text(f"first\n{long}\nlast\n")
    assert await whole(tmp_path / "log", 2) == f"{long}\nlast\n"


async def test_log_when_there_is_none_is_empty(tmp_path: Path) -> None:
    assert await whole(tmp_path / "none") == ""


async def test_log_when_followed_yields_additions_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("a\n")
    async with asyncio.timeout(10):
        log = read_log(path, tail_lines=None, follow=True)
        assert await anext(log) == b"a\n"
        with path.open("a") as file:
            file.write("b\n")
        assert await anext(log) == b"b\n"
        with path.open("a") as file:
            file.write("last words\n")
        path.rename(tmp_path / "previous")
        path.write_text("of the next life\n")
        assert [chunk async for chunk in log] == [b"last words\n"]


async def test_log_when_trimmed_while_followed_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("long enough\n")
    async with asyncio.timeout(10):
        log = read_log(path, tail_lines=None, follow=True)
        assert await anext(log) == b"long enough\n"
        path.open("r+b").truncate(0)
        with path.open("a") as file:
            file.write("new\n")
        assert await anext(log) == b"new\n"


FAILED = {"waiting": {"reason": "CreateContainerError", "message": "cannot execute /no: No such file or directory"}}
STARTED: dict[str, Any] = {"running": {}}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting the container"}}


@pytest.mark.parametrize(
    ("state", "written", "previous", "says"),
    [
        (FAILED, "", False, "the container of pod x does not run and has no log: cannot execute /no: No such file"),
        (FAILED, None, False, "does not run and has no log"),
        (STARTED, None, True, "pod x has no previous run"),
        (STARTED, "", False, None),
        (BACK_OFF, "", False, None),
        (FAILED, "of an earlier run", False, None),
        (STARTED, "of an earlier run", True, None),
    ],
)
def test_log_when_container_did_not_run_then_error_says_so(
    tmp_path: Path, state: dict[str, Any], written: str | None, *, previous: bool, says: str | None
) -> None:
    pod = {"metadata": {"name": "x"}, "status": {"containerStatuses": [{"state": state}]}}
    if written is not None:
        (tmp_path / "log").write_text(written)
    with contextlib.nullcontext() if says is None else pytest.raises(NoLog, match=says):
        check_log(tmp_path / "log", pod, previous=previous)
