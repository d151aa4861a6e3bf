"""kill -9 of each part while requests run: what is promised in docs/concepts.md, "When parts die"."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from acceptance.acceptance_instance import Instance, model, until

pytestmark = pytest.mark.acceptance


@dataclass
class Traffic:
    """Short requests, one after another in a few threads, until stopped; bounded in count."""

    instance: Instance
    threads: int = 2
    most: int = 2000
    statuses: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator[Traffic]:
        stop = threading.Event()
        workers = [threading.Thread(target=self._ask, args=(stop,)) for _ in range(self.threads)]
        for worker in workers:
            worker.start()
        try:
            until(lambda: len(self.statuses) >= 3, "traffic flows")
            yield self
            flowing = len(self.statuses)
            until(lambda: len(self.statuses) >= flowing + 3, "traffic flows on")
        finally:
            stop.set()
            for worker in workers:
                worker.join()

    def _ask(self, stop: threading.Event) -> None:
        body = {"model": "smol", "prompt": "one two", "max_tokens": 2, "temperature": 0}
        while not stop.is_set() and len(self.statuses) < self.most:
            try:
                status, answer = post(self.instance, "/v1/completions", body)
            except OSError as error:
                self.errors.append(f"{type(error).__name__}: {error}")
                continue
            except http.client.HTTPException as error:
                self.errors.append(f"{type(error).__name__}: {error}")
                continue
            self.statuses.append(status)
            if status != 200:
                self.errors.append(answer)


def post(instance: Instance, path: str, body: dict[str, object]) -> tuple[int, str]:
    endpoint = urlsplit(instance.url)
    connection = http.client.HTTPConnection(endpoint.hostname or "", endpoint.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read().decode()


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, smollm2_path: Path) -> Iterator[Instance]:
    instance = Instance(tmp_path_factory.mktemp("f")).start()
    instance.apply(model(smollm2_path))
    instance.headrace("wait", "mdep/smol", "--timeout", "90s")
    yield instance
    assert instance.stop() == 0, instance.said()


def only(pids: list[int]) -> int:
    assert len(pids) == 1, pids
    return pids[0]


def test_replica_when_killed_under_traffic_then_no_request_fails(faulty: Instance) -> None:
    with Traffic(faulty).running() as traffic:
        os.kill(only(faulty.runtime_pids()), signal.SIGKILL)
    assert traffic.errors == []
    assert set(traffic.statuses) == {200}


def test_replica_when_killed_then_an_open_stream_ends_with_replica_lost(faulty: Instance) -> None:
    faulty.headrace("wait", "mdep/smol", "--timeout", "60s")
    endpoint = urlsplit(faulty.url)
    connection = http.client.HTTPConnection(endpoint.hostname or "", endpoint.port, timeout=60)
    body = {"model": "smol", "prompt": "Once upon a time", "max_tokens": 400, "stream": True, "ignore_eos": True}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.readline().startswith(b"data: ")
    os.kill(only(faulty.runtime_pids()), signal.SIGKILL)
    events = [line for line in response.read().split(b"\n") if line.startswith(b"data: ") and b"[DONE]" not in line]
    assert json.loads(events[-1][6:])["error"]["code"] == "replica_lost"


def test_gateway_when_killed_then_it_serves_again_within_two_seconds_and_no_replica_restarts(faulty: Instance) -> None:
    faulty.headrace("wait", "mdep/smol", "--timeout", "60s")
    replica = only(faulty.runtime_pids())
    gateway = only(faulty.pids("headrace-gateway"))
    os.kill(gateway, signal.SIGKILL)
    body: dict[str, object] = {"model": "smol", "prompt": "one two", "max_tokens": 1}

    def served() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return post(faulty, "/v1/completions", body)[0] == 200
        return False

    until(served, "the gateway serves again")
    assert faulty.runtime_pids() == [replica]


def test_nats_when_killed_under_traffic_then_no_request_to_a_running_model_fails(faulty: Instance) -> None:
    faulty.headrace("wait", "mdep/smol", "--timeout", "60s")
    with Traffic(faulty).running() as traffic:
        os.kill(only(faulty.pids("nats-server")), signal.SIGKILL)
        until(lambda: len(faulty.pids("nats-server")) == 1, "NATS is back")
    assert traffic.errors == []
    assert set(traffic.statuses) == {200}


def test_nats_when_killed_then_a_wake_asked_meanwhile_happens(faulty: Instance, smollm2_path: Path) -> None:
    faulty.apply(model(smollm2_path, "sleeper", scaling={"minReplicas": 0, "maxReplicas": 1, "idleTimeoutSeconds": 2}))
    faulty.wait("sleeper", "Idle")
    os.kill(only(faulty.pids("nats-server")), signal.SIGKILL)
    status, answer = post(faulty, "/v1/completions", {"model": "sleeper", "prompt": "one two", "max_tokens": 1})
    assert status == 200, answer
    faulty.headrace("delete", "mdep/sleeper")


def test_supervisor_when_killed_then_every_child_is_gone_and_no_resource_is_lost(
    own_home: Path, smollm2_path: Path
) -> None:
    instance = Instance(own_home).start()
    instance.apply(model(smollm2_path))
    instance.headrace("wait", "mdep/smol", "--timeout", "90s")
    children = [pid for pid in instance.processes() if pid != instance.process.pid]
    assert len(children) >= 3, "NATS, the gateway and a replica"
    instance.kill()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "every child is gone", 5)
    again = Instance(own_home).start()
    try:
        assert [item["metadata"]["name"] for item in again.get("mdep")] == ["smol"]
        again.headrace("wait", "mdep/smol", "--timeout", "90s")
        assert post(again, "/v1/completions", {"model": "smol", "prompt": "one", "max_tokens": 1})[0] == 200
    finally:
        assert again.stop() == 0, again.said()


def test_instance_when_stopped_then_nothing_of_it_is_left(own_home: Path, smollm2_path: Path) -> None:
    instance = Instance(own_home).start()
    instance.apply(model(smollm2_path))
    instance.headrace("wait", "mdep/smol", "--timeout", "90s")
    processes = instance.processes()
    shared = set(Path("/dev/shm").iterdir())
    assert instance.stop() == 0, instance.said()
    assert not any(Path(f"/proc/{pid}").exists() for pid in processes)
    assert set(Path("/dev/shm").iterdir()) <= shared
    assert not (instance.directory / "headrace.sock").exists()


def test_instances_when_two_run_side_by_side_then_they_do_not_collide(own_home: Path, smollm2_path: Path) -> None:
    left, right = Instance(own_home, name="left").start(), Instance(own_home, name="right").start()
    try:
        left.apply(model(smollm2_path))
        left.headrace("wait", "mdep/smol", "--timeout", "90s")
        assert right.get("mdep") == []
        assert left.url != right.url
        assert post(right, "/v1/completions", {"model": "smol", "prompt": "one", "max_tokens": 1})[0] == 404
        assert post(left, "/v1/completions", {"model": "smol", "prompt": "one", "max_tokens": 1})[0] == 200
    finally:
        assert (left.stop(), right.stop()) == (0, 0)
