"""The node agent of an instance: pods reach it by its volume, and a start does not depend on it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from local.local_cluster import MODEL, SLEEPER, container, deployment, running, until_file
from local.local_instance import Up, until

from headrace.agent.admin import SOCKET_NAME, AdminClient
from headrace.agent.errors import AgentError
from headrace.control.world import ChildRefused
from headrace.environment import AGENT_SOCKET
from headrace.kinds.node_agent import mount_node_agent
from headrace.store.client import Store
from headrace.store.keys import ObjectClass


def store_of(up: Up) -> Path:
    """Return the socket of the namespace `default`, once the agent has opened it."""
    path = up.home.node / "volumes/default/agent.sock"
    until(path.exists, "the socket of the namespace")
    return path


def test_agent_when_instance_is_up_then_namespace_has_a_store(start: Callable[..., Up], file: Path) -> None:
    up = start("-f", str(file)).wait_until_up()
    with Store(store_of(up)) as store:
        assert store.tenant == "default"
        assert bytes(store.put(ObjectClass.KV, b"x").memory) == b"x"


def test_agent_when_killed_then_objects_survive(start: Callable[..., Up], file: Path) -> None:
    up = start("-f", str(file)).wait_until_up()
    with Store(store_of(up)) as store:
        key = store.put(ObjectClass.KV, b"x").key
    agents = [pid for pid in agent_pids(up) if b"agent" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    os.kill(agents[0], signal.SIGKILL)
    client = AdminClient(up.home.node / SOCKET_NAME)

    def restarted() -> bool:
        try:
            return agents[0] not in agent_pids(up) and key in {each.key for each in client.objects()}
        except AgentError:
            return False

    until(restarted, "the agent holds the object again")


def agent_pids(up: Up) -> list[int]:
    """Return the processes of the node agent: itself and its keeper."""
    mark = str(up.home.node).encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if mark in words:
                found.append(int(entry.name))
    return found


def test_agent_when_it_cannot_start_then_said_once(start: Callable[..., Up]) -> None:
    """A file is where its directory should be."""
    up = start().wait_until_up()
    up.process.send_signal(signal.SIGINT)
    up.ended()
    shutil.rmtree(up.home.node / "volumes")
    (up.home.node / "volumes").write_text("")
    again = start().wait_until_up()
    until(lambda: not agent_pids(again), "the agent has given up")
    again.process.send_signal(signal.SIGINT)
    code, said = again.ended()
    assert code == 0
    assert said.count("node agent:") == 1
    assert "Models run without it" in said


def test_node_command_when_instance_is_up_then_lists_objects(start: Callable[..., Up], file: Path) -> None:
    up = start("-f", str(file)).wait_until_up()
    with Store(store_of(up)) as store:
        key = store.put(ObjectClass.WEIGHTS, b"x" * (1 << 20)).key
        for arguments, expected in (([], key[:16]), (["-o", "json"], key)):
            done = subprocess.run(
                [sys.executable, "-m", "headrace.cli.main", "node", "--instance", up.home.name, *arguments],
                env={**os.environ, "HEADRACE_HOME": str(up.home.root)},
                capture_output=True,
                text=True,
                check=True,
            )
            assert expected in done.stdout
            assert "weights" in done.stdout


async def test_pod_when_it_has_the_volume_then_told_the_socket(tmp_path: Path) -> None:
    script = f"echo ${AGENT_SOCKET} > {tmp_path}/told; {SLEEPER}"
    spec = mount_node_agent({"containers": [container(script)]})
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, deployment(spec["containers"][0], volumes=spec["volumes"]))
        (told,) = await until_file(tmp_path / "told", 1)
        assert told == f"{tmp_path}/node/{MODEL.namespace}/agent.sock"


async def test_pod_when_csi_driver_is_another_then_refused(tmp_path: Path) -> None:
    volumes = [{"name": "x", "csi": {"driver": "other.example.org"}}]
    async with running(tmp_path) as cluster:
        with pytest.raises(ChildRefused, match="emptyDir"):
            await cluster.apply(MODEL, deployment(container(SLEEPER), volumes=volumes))
