"""A server for this machine alone, without keys: programs are served, pages of other sites are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from gateway.conftest import running_world
from gateway.gateway_client import KEY_A, get, request, send
from gateway.gateway_inside import inside
from gateway.gateway_replica import DEADLINE_SECONDS
from gateway.gateway_world import Broker, Gateway, World
from serving.serving_client import Answer, ask
from serving.serving_echo import EchoSettings
from serving.serving_processes import Server, free_port

from headrace import environment
from headrace.http.local import LocalOnly

PATHS = ("/v1/models", "/metrics")
FOREIGN = {
    "a name": ({"host": "evil.example"}, "host_not_allowed"),
    "a name with a port": ({"host": "evil.example:8080"}, "host_not_allowed"),
    "a name that looks local": ({"host": "localhost.evil.example"}, "host_not_allowed"),
    "a name that looks like an address": ({"host": "127.0.0.1.evil.example"}, "host_not_allowed"),
    "no name": ({"host": ""}, "host_not_allowed"),
    "a page": ({"origin": "https://evil.example"}, "origin_not_allowed"),
    "a page of an address": ({"origin": "http://192.0.2.1"}, "origin_not_allowed"),
    "a page of nowhere": ({"origin": "null"}, "origin_not_allowed"),
    "an extension": ({"origin": "chrome-extension://localhost"}, "origin_not_allowed"),
    "a page under our name": ({"host": "localhost", "origin": "https://evil.example"}, "origin_not_allowed"),
}
LOCAL = {
    "the name": {"host": "localhost:8080"},
    "the name in upper case": {"host": "LOCALHOST"},
    "an address": {"host": "127.0.0.1:8080"},
    "an address of IPv6": {"host": "[::1]:8080"},
    "a page of this machine": {"origin": "http://localhost:3000"},
    "a page of its address": {"origin": "http://127.0.0.1:3000"},
    "a name that is allowed": {"host": "Gateway.example"},
    "a page that is allowed": {"origin": "https://chat.example"},
    "a page of a name that is allowed": {"origin": "http://gateway.example"},
}
ALLOWED = {
    environment.ALLOWED_HOSTS: "other.example, gateway.example",
    environment.ALLOWED_ORIGINS: "https://chat.example",
}


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ALLOWED.items():
        monkeypatch.setenv(name, value)


@pytest_asyncio.fixture
async def world(variables: None, tmp_path: Path) -> AsyncIterator[World]:
    broker = Broker(tmp_path / "nats")
    broker.start()
    try:
        async with running_world(broker, tmp_path) as world:
            yield world
    finally:
        broker.kill()


@pytest.fixture
def runtime(variables: None, tmp_path: Path) -> Iterator[Server]:
    server = Server(EchoSettings(free_port()), tmp_path)
    yield server
    server.stop()


async def test_gateway_without_keys_then_only_this_machine_is_served(world: World) -> None:
    for path in PATHS:
        for name, (fields, code) in FOREIGN.items():
            answer = await send(world.port, request("GET", path, headers=fields))
            assert (answer.status, answer.code) == (403, code), name
        for name, fields in LOCAL.items():
            assert (await send(world.port, request("GET", path, headers=fields))).status == 200, name


async def test_gateway_without_keys_then_a_target_s_host_counts(world: World) -> None:
    raw = request("GET", "http://evil.example/v1/models")
    assert (await send(world.port, raw)).code == "host_not_allowed"
    for host in ("localhost:8080", "127.0.0.1", "[::1]", "[::1]:8080"):
        assert (await send(world.port, request("GET", f"http://{host}/v1/models"))).status == 200, host


async def test_gateway_before_table_is_loaded_then_checked_after() -> None:
    foreign = request("GET", "/v1/models", headers={"host": "evil.example"})
    prompt = request(body={"model": "echo"}, headers={"host": "evil.example"})
    for is_keyed in (False, True):
        async with inside(loaded=False, local=True) as world:
            asking = [asyncio.create_task(send(world.port, raw)) for raw in (foreign, prompt)]
            await asyncio.sleep(0.1)
            assert not any(each.done() for each in asking)
            if is_keyed:
                world.key(KEY_A)
            world.table.loaded.set()
            answers = await asyncio.gather(*asking)
        codes = [answer.code for answer in answers]
        assert codes == [("invalid_api_key" if is_keyed else "host_not_allowed")] * 2


async def test_gateway_that_always_needs_a_key_then_no_host_is_refused() -> None:
    async with inside(local=True, anonymous=None) as world:
        answer = await send(world.port, request("GET", "/v1/models", headers={"host": "models.example"}))
    assert (answer.status, answer.code) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    ("host", "origin", "variable"),
    [
        (b"evil.example", None, environment.ALLOWED_HOSTS),
        (b"localhost", b"https://evil.example", environment.ALLOWED_ORIGINS),
    ],
)
def test_objection_when_read_then_it_says_where_to_allow_it(host: bytes, origin: bytes | None, variable: str) -> None:
    objection = LocalOnly().objection("/v1/models", host, origin)
    assert objection is not None
    assert f"{variable} in its environment (in local mode that of `headrace up`) and start it again" in str(objection)


async def test_page_when_it_sends_a_prompt_then_no_model_is_woken(world: World) -> None:
    await world.loop.route()
    replica = await world.replica()
    raw = request(body={"model": "echo"}, headers={"origin": "https://evil.example", "content-type": "text/plain"})
    answer = await send(world.port, raw)
    assert (answer.status, answer.code) == (403, "origin_not_allowed")
    assert environment.ALLOWED_ORIGINS in answer.json()["error"]["message"]
    assert not replica.requests


async def test_gateway_with_keys_then_only_metrics_are_guarded(world: World) -> None:
    await world.loop.key(KEY_A)
    fields = {"host": "evil.example", "origin": "https://evil.example", "authorization": f"Bearer {KEY_A}"}
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (await get(world.port, "/v1/models")).status != 401:
            await asyncio.sleep(0.005)
    assert (await send(world.port, request("GET", "/v1/models", headers=fields))).status == 200
    assert (await send(world.port, request("GET", "/metrics", headers=fields))).code == "host_not_allowed"


async def test_metrics_on_a_local_port_then_they_are_guarded(world: World, tmp_path: Path) -> None:
    port = free_port()
    gateway = Gateway(world.broker, tmp_path / "two", "--metrics-port", str(port), "--allowed-host", "mine.example")
    gateway.start()
    try:
        await gateway.ready()
        answers = {
            host: (await send(port, request("GET", "/metrics", headers={"host": host}))).status
            for host in ("evil.example", "gateway.example", "mine.example", "localhost")
        }
        assert answers == {"evil.example": 403, "gateway.example": 403, "mine.example": 200, "localhost": 200}
    finally:
        gateway.close()


async def test_gateway_for_others_then_any_name_is_served(world: World, tmp_path: Path) -> None:
    gateway = Gateway(world.broker, tmp_path / "two", host="0.0.0.0")
    gateway.start()
    try:
        await gateway.ready()
        raw = request("GET", "/v1/models", headers={"host": "models.example", "origin": "https://models.example"})
        assert (await send(gateway.port, raw)).status == 200
    finally:
        gateway.close()


async def test_runtime_alone_then_only_this_machine_is_served(runtime: Server) -> None:
    await runtime.ready()

    async def asked(path: str, fields: dict[str, str]) -> Answer:
        return await ask(runtime.settings.port, "GET", path, None, fields)

    for path in PATHS:
        for name, (fields, code) in FOREIGN.items():
            answer = await asked(path, fields)
            assert (answer.status, answer.json()["error"]["code"]) == (403, code), name
        for name, fields in LOCAL.items():
            assert (await asked(path, fields)).status == 200, name


async def test_replica_on_loopback_then_it_is_guarded(tmp_path: Path) -> None:
    """It serves gateways alone, but its health and metrics are open."""
    broker = Broker(tmp_path / "nats")
    broker.start()
    server = Server(EchoSettings(free_port()), tmp_path, broker)
    try:
        await server.ready()
        for path in ("/metrics", "/health"):
            answer = await ask(server.settings.port, "GET", path, None, {"host": "evil.example"})
            assert answer.status == 403, path
    finally:
        server.stop()
        broker.kill()


def test_hosts_when_many_then_not_all_are_remembered() -> None:
    local = LocalOnly()
    for number in range(1000):
        assert local.objection("/", f"localhost:{number}".encode(), None) is None
    assert len(local._accepted) < 100
