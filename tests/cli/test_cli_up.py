"""`headrace up --detach`: what the instance in the background, here a script that writes it down, is given."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from headrace.cli import manifests
from headrace.cli.main import main
from headrace.local.home import InstanceHome, Record

SECONDS = 60.0
FILE = """\
# an emoji, a date and a character that YAML must escape, in a file of two documents
apiVersion: headrace.dev/v1alpha1
kind: ModelDeployment
metadata: {name: tiny, annotations: {motto: "🚀 \\x7f", built: 2024-05-01}}
spec:
  model: {source: {uri: "https://example.org/tiny.gguf"}}
---
apiVersion: v1
kind: Secret
metadata: {name: other, namespace: elsewhere}
stringData: {token: "0123"}
"""
INSTANCE = """\
#!/bin/sh
echo "$@" >{home}/arguments
cat >{home}/received
echo '{record}' | sed "s/PID/$$/" >{home}/record
mv {home}/record {record_path}
exec sleep 60
"""
DIES = """\
#!/bin/sh
exec 0<&-
echo "error: no room. Make some" >&2
exit 1
"""


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> InstanceHome:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path_factory.mktemp("u")))
    return InstanceHome.of("default")


def _pretend(script: str, home: InstanceHome, monkeypatch: pytest.MonkeyPatch) -> None:
    record = json.dumps(Record("default", -1, "0.1.0", "http://127.0.0.1:1", "", "").as_json()).replace("-1", "PID")
    home.make()
    program = home.root / "python"
    program.write_text(script.format(home=home.root, record=record, record_path=home.record))
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))


def _wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _type(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


@pytest.mark.parametrize("way", ["-", "file", "pipe"])
def test_detached_instance_when_files_given_then_it_gets_them(
    way: str, home: InstanceHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend(INSTANCE, home, monkeypatch)
    file = home.root / "a.yaml"
    file.write_text(FILE)
    reading, writing = os.pipe()
    os.write(writing, FILE.encode())
    os.close(writing)
    _type(FILE if way == "-" else "", monkeypatch)
    path = {"-": "-", "file": str(file), "pipe": f"/dev/fd/{reading}"}[way]
    try:
        assert main(["up", "--detach", "-f", path]) == 0
    finally:
        os.close(reading)
        os.kill(Record.read(home).pid, signal.SIGKILL)
    wanted = [document.manifest for document in manifests.read(str(file))]
    wanted[0]["metadata"]["namespace"] = "default"
    assert [document.manifest for document in manifests.read(str(home.root / "received"))] == wanted
    assert "--filename -" in (home.root / "arguments").read_text()


def test_detached_when_named_then_hints_have_name_and_port(
    monkeypatch: pytest.MonkeyPatch, home: InstanceHome, capsys: pytest.CaptureFixture[str]
) -> None:
    named = InstanceHome.of("three")
    _pretend(INSTANCE, named, monkeypatch)
    try:
        assert main(["up", "--detach", "--instance", "three"]) == 0
    finally:
        os.kill(Record.read(named).pid, signal.SIGKILL)
    said = capsys.readouterr().out
    assert "port 8080 is taken: using 1\n" in said
    assert "headrace get mdep --instance three" in said
    assert "`headrace down --instance three`" in said


def test_detached_when_not_on_loopback_then_hint_for_a_key(
    monkeypatch: pytest.MonkeyPatch, home: InstanceHome, capsys: pytest.CaptureFixture[str]
) -> None:
    _pretend(INSTANCE, home, monkeypatch)
    try:
        assert main(["up", "--detach", "--host", "0.0.0.0"]) == 0
    finally:
        os.kill(Record.read(home).pid, signal.SIGKILL)
    said = capsys.readouterr().out
    assert "every request needs an API key: export HEADRACE_API_KEY=$(headrace keys create NAME)\n" in said


def test_instance_when_its_port_is_taken_then_says_which_it_uses(
    home: InstanceHome,
) -> None:
    """Interrupted meanwhile, it says how long the end takes."""
    file = home.root / "resting.yaml"
    file.write_text(FILE.partition("---")[0] + "  suspend: true\n")
    command = [sys.executable, "-m", "headrace.cli.main", "up", "--instance", "three", "-f", str(file)]
    with contextlib.ExitStack() as cleanup:
        with contextlib.suppress(OSError):  # taken already
            cleanup.enter_context(socket.create_server(("127.0.0.1", 8080)))
        up = cleanup.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8"))
        cleanup.callback(up.kill)
        assert up.stdout is not None
        said = []
        for line in up.stdout:
            said.append(line.rstrip("\n"))
            if line.startswith("stop: "):
                break
        up.send_signal(signal.SIGINT)
        said += up.communicate(timeout=SECONDS)[0].splitlines()
    assert any(re.fullmatch(r"port 8080 is taken: using \d+", line) for line in said)
    assert "stop: SIGINT or `headrace down --instance three`" in said
    assert "stopped: resources and models stay for the next `headrace up --instance three`" in said
    assert "stopping: running requests may finish, for 30 s at most; Ctrl-C again to cut them off" in said
    tried = next(line for line in said if "curl" in line)
    body = json.loads(tried.partition(" -d ")[2].strip("'"))
    assert (body["model"], body["temperature"], body["max_tokens"], body["stream"]) == ("tiny", 0, 60, True)


def test_detached_instance_when_no_file_given_then_reads_nothing(
    home: InstanceHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend(INSTANCE, home, monkeypatch)
    try:
        assert main(["up", "--detach"]) == 0
    finally:
        os.kill(Record.read(home).pid, signal.SIGKILL)
    assert (home.root / "received").read_bytes() == b""
    assert "--filename" not in (home.root / "arguments").read_text()


def test_detached_when_it_exits_early_then_its_error_shows(
    home: InstanceHome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It exits before it reads its files: what it printed is the error."""
    _pretend(DIES, home, monkeypatch)
    _type(FILE.replace("0123", "x" * 200_000), monkeypatch)  # more than a pipe takes before somebody reads
    assert main(["up", "--detach", "-f", "-"]) == 1
    assert capsys.readouterr().err == "error: no room. Make some\n"


def test_detached_instance_when_one_runs_already_then_log_kept(
    home: InstanceHome, capsys: pytest.CaptureFixture[str]
) -> None:
    home.make()
    log = home.logs / "up.log"
    log.write_text("ready\n")
    began = time.monotonic()
    with home.locked():
        assert main(["up", "--detach"]) == 1
    assert time.monotonic() - began < 0.5
    assert "the instance 'default' is already running" in capsys.readouterr().err
    assert log.read_text() == "ready\n"


def test_detached_instance_when_log_truncated_then_it_continues(
    home: InstanceHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It continues at the beginning of the file."""
    script = INSTANCE.replace(
        "exec sleep 60", "echo up; read _ <{home}/go; echo more; touch {home}/done; exec sleep 60"
    )
    _pretend(script, home, monkeypatch)
    os.mkfifo(home.root / "go")
    log = home.logs / "up.log"
    assert main(["up", "--detach"]) == 0
    try:
        _wait_for(lambda: log.read_bytes() == b"up\n")
        os.truncate(log, 0)
        (home.root / "go").write_text("now\n")
        _wait_for((home.root / "done").exists)
    finally:
        os.kill(Record.read(home).pid, signal.SIGKILL)
    assert log.read_bytes() == b"more\n"


def test_standard_input_when_no_text_then_the_error_says_so(
    home: InstanceHome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"GGUF\xff\xfe")))
    assert main(["up", "-f", "-"]) == 2
    assert "standard input is not a text file" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["99999999", "-1", "http"])
def test_port_when_it_is_none_then_the_error_says_which_are(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["up", f"--port={port}"])
    assert caught.value.code == 2
    assert "0 to 65535" in capsys.readouterr().err
