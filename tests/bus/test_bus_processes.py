"""Endpoints in processes of their own: killed ones, and ones in other network namespaces (that is: pods)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bus import bus_agent, bus_peer
from bus.bus_world import NO_EBPF, TRANSPORTS, BusWorld, Name, node, open_sockmap

from headrace.agent.connection import AgentConnection
from headrace.bus.client import join
from headrace.bus.errors import AckTimeout, BusClosed, PeerUnreachable
from headrace.bus.frames import Kind

SOON = 10.0
UPDATE = Kind.UPDATE
NODE, PODS = "10.217.0.1", ("10.217.0.2", "10.217.1.2")


@contextlib.contextmanager
def peer(path: Path, transport: Name, *command: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process with an endpoint, and the endpoint's id; `command` runs it, e.g. in a namespace."""
    arguments = [*command, sys.executable, bus_peer.__file__, str(path), transport]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_peer_when_killed_then_sender_gets_an_error(tmp_path: Path, transport: Name) -> None:
    with node(tmp_path, transport) as world, world.join(transport) as one:
        with peer(tmp_path / "a.sock", transport) as (process, id_):
            one.send(id_, UPDATE)
            one.wait_acked(id_, 1, SOON)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        world.await_end(id_)
        one.send(id_, UPDATE)
        with pytest.raises(PeerUnreachable, match="has closed"):
            one.wait_acked(id_, 2, SOON)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_peer_when_stopped_then_acknowledgement_times_out(tmp_path: Path, transport: Name) -> None:
    """A process that hangs keeps its socket: only time tells."""
    path = tmp_path / "a.sock"
    with node(tmp_path, transport) as world, world.join(transport) as one, peer(path, transport) as (process, id_):
        os.kill(process.pid, signal.SIGSTOP)
        one.send(id_, UPDATE)
        with pytest.raises(AckTimeout):
            one.wait_acked(id_, 1, 0.1)
        os.kill(process.pid, signal.SIGCONT)
        one.wait_acked(id_, 1, SOON)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_agent_when_killed_then_endpoints_are_closed(tmp_path: Path, transport: Name) -> None:
    """Also those whose frames the kernel delivers: their ids are void, and they join the next agent."""
    if transport == "sockmap":
        open_sockmap().close()
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, bus_agent.__file__, str(tmp_path), transport],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(bus_agent.__file__).parents[1])},
        ) as agent:
            assert agent.stdout is not None
            assert agent.stdout.readline() == "ready\n"
            path = tmp_path / "a.sock"
            with join(AgentConnection(path), transport) as one, join(AgentConnection(path), transport) as two:
                one.send(two.id, UPDATE)
                assert two.receive(SOON) is not None
                agent.kill()
                for each in (one, two):
                    with pytest.raises(BusClosed):
                        each.receive(SOON)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def pods() -> Iterator[list[str]]:
    """Two network namespaces, each with a veth pair to the node's."""
    if os.getuid() != 0:
        pytest.skip(NO_EBPF)
    names = [f"headrace-{os.getpid()}-{number}" for number in range(2)]
    with contextlib.ExitStack() as stack:
        for number, name in enumerate(names):
            try:
                ip("netns", "add", name)
            except (OSError, subprocess.CalledProcessError):
                pytest.skip(NO_EBPF)  # between network namespaces: none can be made
            stack.callback(ip, "netns", "delete", name)
            ours = f"hr{os.getpid()}-{number}"
            ip("link", "add", ours, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("address", "add", f"10.217.{number}.1/24", "dev", ours)
            ip("link", "set", ours, "up")
            ip("-n", name, "address", "add", f"{PODS[number]}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "route", "add", "default", "via", f"10.217.{number}.1")
        yield names


def test_pods_when_in_namespaces_then_kernel_delivers(tmp_path: Path, pods: list[str]) -> None:
    """Two pods that have no interface in common exchange frames without the agent; so do a pod and the node."""
    with BusWorld(tmp_path, open_sockmap(), host=NODE) as world, world.join("sockmap") as one:
        path = tmp_path / "a.sock"
        first, second = (peer(path, "sockmap", "ip", "netns", "exec", pod) for pod in pods)
        with first as (_, echo), second as (_, other):
            for id_ in (echo, other):
                one.send(id_, UPDATE)
                one.wait_acked(id_, 1, SOON)
            command = [sys.executable, "-c", PING, str(path), str(echo)]
            done = subprocess.run(
                ["ip", "netns", "exec", pods[1], *command], capture_output=True, text=True, check=False
            )
            assert done.stdout == "acknowledged\n", done.stderr
            kernel = {each.id: each for each in world.do(lambda: list(world.bus.counts()))}
            assert kernel[echo].received == 6
            assert kernel[echo].passed == kernel[other].passed == kernel[one.id].passed == 0
            assert world.do(lambda: world.router.forwarded["sockmap"]) == 0


PING = """
import sys
from pathlib import Path
from headrace.agent.connection import AgentConnection
from headrace.bus.client import join
from headrace.bus.frames import Kind
with join(AgentConnection(Path(sys.argv[1])), "sockmap") as endpoint:
    for _ in range(5):
        seq = endpoint.send(int(sys.argv[2]), Kind.UPDATE)
        endpoint.wait_acked(int(sys.argv[2]), seq, 10)
print("acknowledged")
"""
