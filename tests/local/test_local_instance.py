"""A whole instance, without a model: how it comes up, goes down, and what a crash leaves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from disks import fill, small_disk

from headrace.api.kinds import KINDS
from headrace.cli.client import ApiClient
from headrace.cli.output import condition
from headrace.errors import NoSpace, NotRunning
from headrace.local.home import InstanceHome, Record
from headrace.local.leftovers import LIFE_VARIABLE

SECONDS = 20.0
Found = TypeVar("Found")
SUSPENDED = {
    "apiVersion": "headrace.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "resting", "namespace": "default"},
    "spec": {"model": {"source": {"uri": "file:///nowhere/none.gguf"}}, "suspend": True},
}


def until(look: Callable[[], Found | None], what: str, seconds: float = SECONDS) -> Found:
    """Return what `look` finds as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)
    return found


@dataclass
class Up:
    """`headrace up` in a process of its own."""

    home: InstanceHome
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[str] = field(init=False)

    def start(self) -> Up:
        command = [sys.executable, "-m", "headrace.cli.main", "up", "--instance", self.home.name, *self.arguments]
        variables = {**os.environ, "HEADRACE_HOME": str(self.home.root)}
        self.process = subprocess.Popen(
            command,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self

    def wait_until_up(self) -> Up:
        until(lambda: self._is_up() or self.process.poll() is not None, "the instance is up or has ended")
        assert self.process.poll() is None, self.process.stdout and self.process.stdout.read()
        return self

    def _is_up(self) -> bool:
        with contextlib.suppress(NotRunning):
            return Record.read(self.home).pid == self.process.pid
        return False

    def ended(self) -> tuple[int, str]:
        """Return the exit code and what was printed."""
        said, _ = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, said

    def processes(self) -> dict[str, int]:
        """Return the running processes of this life, the supervisor not among them, by the name of their program."""
        life = json.loads(self.home.life.read_text())["id"]
        return processes_of(life)

    @property
    def endpoint(self) -> str:
        return Record.read(self.home).endpoint

    @property
    def client(self) -> ApiClient:
        return ApiClient(self.home.socket)


def processes_of(life: str) -> dict[str, int]:
    mark = f"{LIFE_VARIABLE}={life}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                name = next((Path(os.fsdecode(w)).name for w in words if b"python" not in w), "")
                found[name] = int(entry.name)
    return found


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        return answer.read()


def models(endpoint: str) -> list[str]:
    return [model["id"] for model in json.loads(get(f"{endpoint}/v1/models"))["data"]]


@pytest.fixture
def root() -> Iterator[Path]:
    """A short path: a Unix socket's has at most 107 bytes."""
    root = Path(tempfile.mkdtemp(prefix="hr-"))
    yield root
    shutil.rmtree(root)


@pytest.fixture
def start(root: Path) -> Iterator[Callable[..., Up]]:
    """Start instances that are ended with the test."""
    started: list[Up] = []

    def start(*arguments: str, name: str = "default") -> Up:
        started.append(Up(InstanceHome.of(name, root), arguments).start())
        return started[-1]

    yield start
    for up in started:
        if up.process.poll() is None:
            up.process.kill()
        with contextlib.suppress(ValueError):  # what it said was read already
            up.process.communicate()


@pytest.fixture
def file(root: Path) -> Path:
    path = root / "model.yaml"
    path.write_text(yaml.safe_dump(SUSPENDED))
    return path


def test_up_when_ready_then_the_gateway_lists_the_applied_model(start: Callable[..., Up], file: Path) -> None:
    up = start("-f", str(file)).wait_until_up()
    until(lambda: models(up.endpoint) == ["resting"], "the model is listed")
    assert up.client.instance() == Record.read(up.home).as_json()
    assert stat.S_IMODE(up.home.record.stat().st_mode) == 0o600


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


def test_up_when_interrupted_while_starting_then_nothing_of_it_is_left(start: Callable[..., Up]) -> None:
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


def test_up_when_the_port_is_taken_then_says_so_and_leaves_nothing(start: Callable[..., Up], root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, said = start("--port", str(taken.getsockname()[1])).ended()
    assert code == 1
    assert "cannot listen on 127.0.0.1" in said
    home = InstanceHome.of("default", root)
    assert not home.life.exists()
    assert not home.is_running()


@pytest.mark.parametrize(
    "name", ["Zoë 中", "two words", "q'u\"o", "$$ $(HOME) $x", "{a} #b %20 \\c", "long/" * 40], ids=str
)
def test_up_when_the_home_has_an_unusual_path_then_all_of_it_works(root: Path, name: str) -> None:
    """NATS's configuration, a pod's arguments, the socket of the API: each has characters of its own, or a limit."""
    weights = root / "weights.gguf"
    weights.write_bytes(b"weights")
    manifest = deepcopy(SUSPENDED)
    manifest["spec"]["model"]["source"]["uri"] = weights.as_uri()  # type: ignore[index]  # it is a manifest
    up = Up(InstanceHome.of("default", root / name)).start()
    try:
        up.wait_until_up()
        up.client.apply(KINDS["ModelDeployment"], manifest)
        until(lambda: _source(up.client), "the file is fetched")
        assert (up.home.models / _source(up.client)["path"]).read_bytes() == b"weights"
        up.client.shutdown()
        assert up.ended()[0] == 0
    finally:
        up.process.kill()
        up.process.communicate()


def _source(client: ApiClient) -> dict[str, Any]:
    found: dict[str, Any] = (
        client.get(KINDS["ModelDeployment"], "default", "resting").get("status", {}).get("source", {})
    )
    return found


def test_fetch_when_the_model_does_not_fit_then_the_condition_says_where_and_what_it_needs(root: Path) -> None:
    weights = root / "weights.gguf"
    with weights.open("wb") as sparse:
        sparse.truncate(20 * 1024 * 1024)
    manifest = deepcopy(SUSPENDED)
    manifest["spec"]["model"]["source"]["uri"] = weights.as_uri()  # type: ignore[index]  # it is a manifest
    with small_disk(root / "disk", 16 * 1024):
        up = Up(InstanceHome.of("default", root / "disk")).start()
        try:
            up.wait_until_up()
            up.client.apply(KINDS["ModelDeployment"], manifest)
            cached = until(lambda: _condition(up.client, "ModelCached", "NoSpace"), "the fetch has failed")
            assert f"no space in {up.home.models}/" in cached["message"]
            assert "20971520 bytes are needed" in cached["message"]
        finally:
            up.process.kill()
            up.process.communicate()


def _condition(client: ApiClient, type_: str, reason: str) -> dict[str, Any] | None:
    found = condition(client.get(KINDS["ModelDeployment"], "default", "resting"), type_)
    return found if found.get("reason") == reason else None


def test_up_when_the_disk_fills_up_then_it_goes_on(start: Callable[..., Up], root: Path, file: Path) -> None:
    """What runs goes on, what is asked for is refused with the cause, and all is well when there is room again."""
    with small_disk(root, 16 * 1024):
        file.write_text(yaml.safe_dump(SUSPENDED))
        up = start("-f", str(file)).wait_until_up()
        filler = fill(root)
        large = deepcopy(SUSPENDED)
        large["metadata"] |= {"name": "large", "annotations": {"x": "x" * 100_000}}  # type: ignore[operator]
        with pytest.raises(NoSpace, match=r"state\.sqlite: No space left on device"):
            up.client.apply(KINDS["ModelDeployment"], large)
        assert models(up.endpoint) == ["resting"]
        filler.unlink()
        up.client.apply(KINDS["ModelDeployment"], large)
        until(lambda: models(up.endpoint) == ["large", "resting"], "the new model is listed")
        up.client.shutdown()
        code, said = up.ended()
        assert (code, "Traceback" in said) == (0, False), said


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


def test_supervisor_when_killed_then_its_children_go_and_the_next_start_is_clean(
    start: Callable[..., Up], file: Path
) -> None:
    first = start("-f", str(file)).wait_until_up()
    life = json.loads(first.home.life.read_text())["id"]
    first.process.kill()
    first.process.wait()
    until(lambda: processes_of(life) == {}, "every child is gone", seconds=5)
    second = start().wait_until_up()
    until(lambda: models(second.endpoint) == ["resting"], "the model is listed again")


def test_supervisor_when_killed_then_a_childs_orphan_is_ended_by_the_next_start(start: Callable[..., Up]) -> None:
    first = start().wait_until_up()
    life = json.loads(first.home.life.read_text())["id"]
    first.process.kill()
    first.process.wait()
    # What a child of a child would be: of this life by its environment, and without a parent-death signal.
    orphan = subprocess.Popen(["sleep", "600"], env={**os.environ, LIFE_VARIABLE: life})
    start().wait_until_up()
    assert orphan.wait(SECONDS) == -signal.SIGKILL


def test_gateway_when_killed_then_who_connects_meanwhile_is_served(start: Callable[..., Up]) -> None:
    up = start().wait_until_up()
    os.kill(up.processes()["headrace-gateway"], signal.SIGKILL)
    assert models(up.endpoint) == []


def test_nats_when_killed_then_what_is_applied_after_is_routed(start: Callable[..., Up]) -> None:
    up = start().wait_until_up()
    os.kill(up.processes()["nats-server"], signal.SIGKILL)
    up.client.apply(KINDS["ModelDeployment"], SUSPENDED)
    until(lambda: models(up.endpoint) == ["resting"], "the model is listed")


def test_up_when_a_resource_is_refused_then_the_instance_does_not_stay(start: Callable[..., Up], root: Path) -> None:
    changed = {**SUSPENDED, "spec": {**SUSPENDED["spec"], "replicas": -1}}  # type: ignore[dict-item]
    (root / "wrong.yaml").write_text(yaml.safe_dump(changed))
    code, said = start("-f", str(root / "wrong.yaml")).ended()
    assert code == 2
    assert "spec.replicas" in said
