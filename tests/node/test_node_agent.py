"""The agent's process: its parts together, its limits, its metrics, and its end."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from node.node_processes import PYTHON, Agent, Keeper

from headrace.agent.admin import TenantUse
from headrace.agent.connection import AgentConnection
from headrace.agent.errors import InvalidMessage
from headrace.bus.client import join
from headrace.bus.frames import Kind
from headrace.metrics import node as names
from headrace.store.client import Store
from headrace.store.errors import StoreFull
from headrace.store.keys import ObjectClass
from headrace_node.admin import PAGE

MIB = 1 << 20
MAX_RSS_BYTES = 60 * MIB
"""Without objects."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def opened(agent: Agent, namespace: str) -> Store:
    """Return the store of a namespace, with a volume opened for it."""
    directory = agent.admin.open_volume(f"v-{namespace}", namespace=namespace, pod="p", uid="u")
    return Store(directory / "agent.sock")


def scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


@pytest.fixture
def agent(short_path: Path) -> Iterator[Agent]:
    with Agent(short_path, "--store-bytes", "16Mi") as started:
        yield started


def test_objects_when_put_then_admin_lists_for_whom(agent: Agent) -> None:
    with opened(agent, "team-a") as a, opened(agent, "team-b") as b:
        key = a.put(ObjectClass.WEIGHTS, b"x" * MIB).key
        b.put(ObjectClass.KV, b"y")
        with a.get(key):
            held = {each.tenant: each for each in agent.admin.objects()}
            assert held.keys() == {"team-a", "team-b"}
            assert (held["team-a"].key, held["team-a"].object_class, held["team-a"].size) == (key, "weights", MIB)
            assert held["team-a"].leases >= 1


def test_tenants_when_listed_then_hits_and_misses_are_theirs(agent: Agent) -> None:
    with opened(agent, "team-a") as a:
        key = a.put(ObjectClass.ASSETS, b"x").key
        a.get(key).close()
        with pytest.raises(Exception, match="no object"):
            a.get("0" * 64)
    (use,) = agent.admin.tenants()
    assert use == TenantUse("team-a", memory=4096, hits=1, misses=1, evictions=0)
    assert use.hit_ratio == 0.5


def test_objects_when_more_than_a_page_then_all_are_listed(agent: Agent) -> None:
    with opened(agent, "team-a") as a:
        keys = {a.put(ObjectClass.KV, str(number).encode()).key for number in range(PAGE + 1)}
        assert {each.key for each in agent.admin.objects()} == keys


def test_quota_when_of_tenant_or_class_exceeded_then_named(short_path: Path) -> None:
    limits = ("--store-bytes", "16Mi", "--tenant-bytes", "4Mi", "--tenant-bytes=team-b=8Mi", "--class-bytes", "kv=1Mi")
    with Agent(short_path, *limits) as agent, opened(agent, "team-a") as a:
        with pytest.raises(StoreFull, match="kv"):
            a.put(ObjectClass.KV, b"x" * 2 * MIB)
        with pytest.raises(StoreFull, match="team-a"):
            a.put(ObjectClass.WEIGHTS, b"x" * 5 * MIB)
        with opened(agent, "team-b") as b:
            b.put(ObjectClass.WEIGHTS, b"x" * 5 * MIB)


def test_metrics_when_scraped_then_each_name_is_documented(short_path: Path) -> None:
    port = free_port()
    documented = {value for name, value in vars(names).items() if name.isupper() and str(value).startswith("headrace")}
    with Agent(short_path, "--metrics-port", str(port)) as agent, opened(agent, "team-a") as a:
        a.put(ObjectClass.WEIGHTS, b"x" * MIB).close()
        text = scraped(port)
    exposed = set(re.findall(r"^# TYPE (headrace_\w+?)(?:_total)? ", text, re.MULTILINE))
    assert exposed == documented
    assert 'headrace_node_store_puts_total{class="weights",tenant="team-a"} 1.0' in text
    assert 'headrace_node_store_bytes{class="weights",tenant="team-a"} 1.048576e+06' in text
    assert 'headrace_node_volumes{tenant="team-a"} 1.0' in text


def test_agent_when_it_holds_nothing_then_needs_little_memory(short_path: Path) -> None:
    port = free_port()
    with Agent(short_path, "--metrics-port", str(port)):
        (resident,) = re.findall(r"^process_resident_memory_bytes (\S+)$", scraped(port), re.MULTILINE)
    assert float(resident) <= MAX_RSS_BYTES


def test_agent_when_imported_then_nothing_heavy_is() -> None:
    heavy = {"torch", "numpy", "pydantic", "grpc", "google.protobuf", "nats"}
    code = f"import sys, headrace_node.agent, headrace_node.main; print(*({heavy} & sys.modules.keys()))"
    assert subprocess.run([PYTHON[0], "-c", code], check=True, capture_output=True, text=True).stdout.strip() == ""


def test_objects_when_agent_is_killed_then_survive_with_keeper(short_path: Path) -> None:
    with Keeper(short_path):
        with Agent(short_path, "--keeper") as agent:
            with opened(agent, "team-a") as a:
                key = a.put(ObjectClass.WEIGHTS, b"x" * MIB).key
            agent.stop(signal.SIGKILL)
        with Agent(short_path, "--keeper") as agent, opened(agent, "team-a") as a, a.get(key) as found:
            assert bytes(found.memory) == b"x" * MIB


def test_objects_when_no_keeper_then_cleanly_gone_after_a_kill(short_path: Path) -> None:
    with Agent(short_path) as agent:
        with opened(agent, "team-a") as a:
            a.put(ObjectClass.WEIGHTS, b"x" * MIB)
        agent.stop(signal.SIGKILL)
    with Agent(short_path) as agent:
        assert list(agent.admin.objects()) == []


def test_agent_when_terminated_then_exits_with_zero(agent: Agent) -> None:
    with opened(agent, "team-a"):
        assert agent.stop() == 0
    assert not agent.admin_socket.exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--store-bytes", "900Ti"], "memory of the node"),
        (["--store-bytes", "1Mi", "--tenant-bytes", "2Mi"], "quota of each tenant"),
        (["--metrics-port", "1", "--metrics-host", "203.0.113.1"], "cannot listen"),
    ],
)
def test_agent_when_it_cannot_start_then_one_line_says_why(short_path: Path, options: list[str], named: str) -> None:
    command = [*PYTHON, "agent", "--socket-directory", str(short_path), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert named in line


@pytest.mark.parametrize("option", ["--store-bytes=1G", "--store-bytes=0", "--class-bytes=kv", "--class-bytes=x=1Mi"])
def test_agent_when_an_option_is_wrong_then_usage(short_path: Path, option: str) -> None:
    command = [*PYTHON, "agent", "--socket-directory", str(short_path), option]
    assert subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 2


@pytest.mark.parametrize("volume", ["../x", "a/b", "", "x" * 129])
def test_admin_when_volume_id_is_no_name_then_refused(agent: Agent, volume: str) -> None:
    with pytest.raises(InvalidMessage, match="id"):
        agent.admin.open_volume(volume, namespace="a", pod="b", uid="c")


def test_volume_when_id_belongs_to_another_pod_then_conflict(agent: Agent) -> None:
    agent.admin.open_volume("v", namespace="a", pod="b", uid="c")
    with pytest.raises(Exception, match="belongs to the pod a/b"):
        agent.admin.open_volume("v", namespace="other", pod="b", uid="c")


def test_bus_when_two_endpoints_join_then_metrics_count_frames(short_path: Path) -> None:
    port = free_port()
    with Agent(short_path, "--metrics-port", str(port)) as agent:
        directory = agent.admin.open_volume("v", namespace="team-a", pod="p", uid="u")
        with contextlib.closing(AgentConnection(directory / "agent.sock")) as connection:
            sender, receiver = join(connection, "tcp"), join(connection, "tcp")
            sender.send(receiver.id, Kind.UPDATE)
            assert receiver.receive(timeout=10) is not None
            text = scraped(port)
    assert 'headrace_node_bus_endpoints{tenant="team-a"} 2.0' in text
    assert 'headrace_node_bus_forwarded_frames_total{to="tcp"}' in text


def test_agent_when_lease_is_broken_then_survives(agent: Agent) -> None:
    """A client that opens a segment while the agent checks who holds it breaks the agent's file lease: SIGIO."""
    agent.process.send_signal(signal.SIGIO)
    assert [each.memory for each in agent.admin.tenants()] == []
    assert agent.process.poll() is None


def test_agent_when_another_runs_then_takes_over_at_its_end(short_path: Path) -> None:
    """The first one removes its sockets when it ends, which must not be those of the second."""
    command = [*PYTHON, "agent", "--socket-directory", str(short_path)]
    with Agent(short_path) as first:
        opened(first, "team-a").close()
        second = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert second.stderr is not None
        with second.stderr as lines:
            assert b"waiting for the end of another process" in lines.readline()
            first.stop()
            assert any(b"ready at" in line for line in lines)
            opened(first, "team-a").close()
            second.terminate()
        assert second.wait(20) == 0
