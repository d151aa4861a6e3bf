"""Replicas on a node hold one copy of the weights, and the next one maps it after all of them have ended."""

from __future__ import annotations

import re
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import openai
import pytest
from llm_runtime.test_llm_server import MODEL, QUESTION, LLMServer
from models.example_model import smollm2_file
from store.store_world import MEGABYTE, StoreThread

from headrace.environment import AGENT_SOCKET
from headrace_node.store.accounts import Limits

ROOM = Limits(total_bytes=512 * MEGABYTE, tenant_bytes=512 * MEGABYTE)
REPLICAS = 3
_MAPPING = re.compile(
    r"^[0-9a-f]+-[0-9a-f]+ .*/memfd:headrace.*\n(?:\w.*\n)*?Rss: +(\d+) kB\nPss: +(\d+) kB$", re.MULTILINE
)


@pytest.fixture
def world() -> Iterator[StoreThread]:
    with tempfile.TemporaryDirectory(prefix="hr-") as directory, StoreThread(Path(directory), ROOM) as thread:
        yield thread


@pytest.fixture
def serve(world: StoreThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setenv(AGENT_SOCKET, str(world.a))
    with ExitStack() as stack:
        yield Serve(tmp_path, stack)


class Serve:
    """Starts replicas of the example's model that reach the store."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory, self._stack, self._count = directory, stack, 0

    def __call__(self) -> LLMServer:
        self._count += 1
        server = LLMServer(smollm2_file(), self._directory / f"{self._count}.log")
        self._stack.callback(server.process.wait)
        self._stack.callback(server.process.kill)
        return server


def answer(server: LLMServer) -> str:
    """Ask a question, which reads all weights."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        completion = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=8)
    return completion.choices[0].message.content or ""


def memory(server: LLMServer) -> tuple[int, int]:
    """Return the resident bytes of stored objects in a process, and its proportional share of them."""
    text = Path(f"/proc/{server.process.pid}/smaps").read_text()
    found = [(int(rss), int(pss)) for rss, pss in _MAPPING.findall(text)]
    return sum(rss for rss, _ in found) * 1024, sum(pss for _, pss in found) * 1024


def test_replicas_when_started_together_then_one_copy(world: StoreThread, serve: Serve) -> None:
    """Of replicas that start at the same time one packs the weights; the shares of all add up to one object."""
    servers = [serve() for _ in range(REPLICAS)]
    for server in servers:
        server.ready()
    answers = {answer(server) for server in servers}
    assert len(answers) == 1
    (stored,) = world.stored()
    resident, shares = zip(*(memory(server) for server in servers), strict=True)
    assert min(resident) > 0.9 * stored.record.size
    assert sum(shares) <= 1.05 * stored.record.size


def test_weights_when_replica_was_killed_then_next_maps_them(world: StoreThread, serve: Serve) -> None:
    first = serve()
    first.ready()
    expected = answer(first)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    hits = world.do(world.store.counters.hits.total)
    second = serve()
    second.ready()
    assert answer(second) == expected
    assert world.do(world.store.counters.hits.total) == hits + 1
    assert world.do(world.store.counters.puts.total) == 1


def test_agent_when_it_does_not_run_then_replica_serves(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(AGENT_SOCKET, str(tmp_path / "absent.sock"))
    server = serve()
    server.ready()
    assert answer(server)
    assert "the weights are loaded for this process alone" in server.log
