"""A whole instance, without a model: how it comes up, goes down, and what a crash leaves."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from local.local_instance import SECONDS, SUSPENDED, Up, models, processes_of, until

from headrace.kinds.registry import KINDS
from headrace.local.home import InstanceHome, Record
from headrace.local.leftovers import LIFE_VARIABLE


def test_up_when_ready_then_the_gateway_lists_the_applied_model(start: Callable[..., Up], file: Path) -> None:
    up = start("-f", str(file)).wait_until_up()
    until(lambda: models(up.endpoint) == ["resting"], "the model is listed")
    assert up.client.instance() == Record.read(up.home).as_json()
    assert stat.S_IMODE(up.home.record.stat().st_mode) == 0o600


def test_up_when_it_has_credentials_then_components_do_not(
    start: Callable[..., Up], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only fetches use the credentials of sources."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    processes = start().wait_until_up().processes()
    assert "headrace-gateway" in processes
    for name, pid in processes.items():
        assert b"hush-hush" not in Path(f"/proc/{pid}/environ").read_bytes(), name


def test_up_when_interrupted_then_nothing_of_it_is_left(start: Callable[..., Up], file: Path) -> None:
    up = start("-f", str(file)).wait_until_up()
    life = json.loads(up.home.life.read_text())["id"]
    assert {"nats-server", "headrace-gateway"} <= up.processes().keys()
    up.process.send_signal(signal.SIGINT)
    code, said = up.ended()
    assert code == 0, said
    assert processes_of(life) == {}
    for path in (up.home.socket, up.home.record, up.home.life, up.home.nats / "nats.conf"):
        assert not path.exists()
    assert not up.home.is_running()


def test_up_when_interrupted_while_starting_leaves_nothing(start: Callable[..., Up]) -> None:
    up = start()
    until(up.home.life.exists, "the first child is about to be started")
    life = json.loads(up.home.life.read_text())["id"]
    up.process.send_signal(signal.SIGINT)
    code, said = up.ended()
    assert code == 0, said
    assert processes_of(life) == {}


def test_up_when_interrupted_twice_then_it_waits_for_nobody(start: Callable[..., Up]) -> None:
    up = start().wait_until_up()
    life = json.loads(up.home.life.read_text())["id"]
    os.kill(up.processes()["headrace-gateway"], signal.SIGSTOP)  # so that it cannot end by itself
    up.process.send_signal(signal.SIGINT)
    until(lambda: not up.home.record.exists(), "it is stopping")
    began = time.monotonic()
    up.process.send_signal(signal.SIGINT)
    code, said = up.ended()
    assert code == 0, said
    assert time.monotonic() - began < 5.0
    assert processes_of(life) == {}


def test_up_when_it_runs_already_then_says_where(start: Callable[..., Up]) -> None:
    endpoint = start().wait_until_up().endpoint
    code, said = start().ended()
    assert code == 1
    assert f"already running at {endpoint}" in said


def test_up_when_port_is_taken_fails_and_leaves_nothing(start: Callable[..., Up], root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, said = start("--port", str(taken.getsockname()[1])).ended()
    assert code == 1
    assert "cannot listen on 127.0.0.1" in said
    home = InstanceHome.of("default", root)
    assert not home.life.exists()
    assert not home.is_running()


def test_up_when_two_run_side_by_side_then_each_has_its_own(start: Callable[..., Up], file: Path) -> None:
    first, second = start("-f", str(file)), start(name="other")
    first.wait_until_up()
    second.wait_until_up()
    assert first.endpoint != second.endpoint
    until(lambda: models(first.endpoint) == ["resting"], "the first one's model is listed")
    assert models(second.endpoint) == []
    first.client.shutdown()
    assert first.ended()[0] == 0
    assert models(second.endpoint) == []


def test_down_when_asked_then_resources_are_there_the_next_time(start: Callable[..., Up], file: Path) -> None:
    first = start("-f", str(file)).wait_until_up()
    first.client.shutdown()
    assert first.ended()[0] == 0
    second = start().wait_until_up()
    assert second.client.get(KINDS["ModelDeployment"], "default", "resting")["spec"]["suspend"]
    until(lambda: models(second.endpoint) == ["resting"], "the model is listed again")


def test_supervisor_when_killed_its_children_end(start: Callable[..., Up], file: Path) -> None:
    first = start("-f", str(file)).wait_until_up()
    life = json.loads(first.home.life.read_text())["id"]
    first.process.kill()
    first.process.wait()
    until(lambda: processes_of(life) == {}, "every child is gone", seconds=5)
    second = start().wait_until_up()
    until(lambda: models(second.endpoint) == ["resting"], "the model is listed again")


def test_supervisor_when_killed_next_start_ends_orphans(start: Callable[..., Up]) -> None:
    first = start().wait_until_up()
    life = json.loads(first.home.life.read_text())["id"]
    first.process.kill()
    first.process.wait()
    # What a child of a child would be: of this life by its environment, and without a parent-death signal.
    orphan = subprocess.Popen(["sleep", "600"], env={**os.environ, LIFE_VARIABLE: life})
    start().wait_until_up()
    assert orphan.wait(SECONDS) == -signal.SIGKILL


def test_gateway_when_killed_serves_waiting_connections(start: Callable[..., Up]) -> None:
    up = start().wait_until_up()
    os.kill(up.processes()["headrace-gateway"], signal.SIGKILL)
    assert models(up.endpoint) == []


def test_nats_when_killed_then_what_is_applied_after_is_routed(start: Callable[..., Up]) -> None:
    up = start().wait_until_up()
    os.kill(up.processes()["nats-server"], signal.SIGKILL)
    up.client.apply(KINDS["ModelDeployment"], SUSPENDED)
    until(lambda: models(up.endpoint) == ["resting"], "the model is listed")


def test_up_when_a_resource_is_invalid_ends(start: Callable[..., Up], root: Path) -> None:
    changed = {**SUSPENDED, "spec": {**SUSPENDED["spec"], "replicas": -1}}
    (root / "wrong.yaml").write_text(yaml.safe_dump(changed))
    code, said = start("-f", str(root / "wrong.yaml")).ended()
    assert code == 2
    assert "spec.replicas" in said
