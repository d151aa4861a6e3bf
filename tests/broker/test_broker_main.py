"""`headrace-nats` with its real nats-server: whom it lets in, what it keeps, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import nats.errors
import pytest
import pytest_asyncio
from broker.broker_process import KEY, SECONDS, SECRETS, BrokerProcess, is_gone, until
from settle import settle

from headrace.broker.config import GATEWAY
from headrace.broker.passwords import runtime_password
from headrace.broker.settings import GATEWAY_PASSWORD, RECONCILER_PASSWORD
from headrace.events import subjects
from headrace.events.connection import connect
from headrace.events.messages import AdmittedNamespaces

ORPHAN = "import subprocess; subprocess.Popen(['sh', '-c', 'exec 3>&1; sleep 0.3 & exit'])"
SUBREAPER = "import ctypes; ctypes.CDLL(None).prctl(36, 1)"
"""PR_SET_CHILD_SUBREAPER: gets the orphans below it, as a container's first process does."""
REFUSED = "Authorization Violation"


@pytest_asyncio.fixture
async def broker(tmp_path: Path) -> AsyncIterator[BrokerProcess]:
    broker = BrokerProcess(tmp_path / "data")
    broker.store.mkdir()
    await broker.start()
    await broker.ready()
    yield broker
    if broker.process is not None and broker.process.returncode is None:
        broker.signal(signal.SIGKILL)
        await broker.ended()


async def heard_of(broker: BrokerProcess, namespace: str, said: list[str]) -> list[str]:
    """Return which of the subjects the loop hears when a runtime of the namespace publishes on all of them."""
    found: list[str] = []
    async with broker.loop() as loop, broker.runtime(namespace) as runtime, asyncio.timeout(SECONDS):
        messages = await loop.subscribe("headrace.>")
        await settle(loop)
        for subject in said:
            await runtime.publish(subject, b"x")
        await settle(runtime)
        await loop.publish("headrace.end")
        async for message in messages.messages:
            if message.subject == "headrace.end":
                break
            found.append(message.subject)
    return found


async def test_runtime_when_its_namespace_is_not_admitted_is_refused(broker: BrokerProcess) -> None:
    with pytest.raises(nats.errors.Error, match=REFUSED):
        async with broker.runtime("team-a"):
            pass


async def test_runtime_when_its_namespace_admitted_then_limited_to_it(broker: BrokerProcess) -> None:
    assert await broker.admit("team-a", "team-b") == await broker.admit("team-b", "team-a")
    own = [subjects.replica("team-a", "model", "pod"), subjects.progress("team-a", "model")]
    foreign = [
        subjects.replica("team-b", "model", "pod"),
        subjects.progress("team-b", "model"),
        subjects.container_report("team-a", "model", "pod"),
        subjects.ADMIT,
    ]
    assert await heard_of(broker, "team-a", [*own, *foreign]) == own


async def test_answer_when_it_comes_then_the_server_obeys_already(broker: BrokerProcess) -> None:
    for number in range(20):
        admitted = [f"team-{n}" for n in range(number + 1)]
        assert (await broker.admit(*admitted)).refusal is None
        async with broker.runtime(admitted[-1]):
            pass


async def test_set_when_namespace_is_dropped_then_only_its_login_ends(broker: BrokerProcess) -> None:
    await broker.admit("team-a", "team-b")
    async with broker.runtime("team-a") as stays, broker.runtime("team-b") as goes:
        await broker.admit("team-a")
        await until(lambda: goes.is_closed, "the removed namespace's runtime is cut off")
        await settle(stays)
        assert stays.is_connected
        with pytest.raises(nats.errors.Error, match=REFUSED):
            async with broker.runtime("team-b"):
                pass


async def test_set_when_a_name_is_no_label_then_refused_by_name(broker: BrokerProcess) -> None:
    await broker.admit("team-a")
    answer = await broker.admit("team-a", "team-b", "*.x")
    assert answer.refusal is not None
    assert "'*.x'" in answer.refusal
    assert json.loads((broker.store / "namespaces.json").read_text()) == ["team-a"]
    with pytest.raises(nats.errors.Error, match=REFUSED):
        async with broker.runtime("team-b"):
            pass


async def test_request_when_invalid_then_refused_and_next_is_served(broker: BrokerProcess) -> None:
    async with broker.loop() as loop:
        assert b"refusal" in (await loop.request(subjects.ADMIT, b"no JSON", timeout=SECONDS)).data
    assert (await broker.admit("team-a")).refusal is None


async def test_set_when_it_cannot_be_stored_then_refused_until_it_can(broker: BrokerProcess) -> None:
    kept = broker.store / "namespaces.json"
    kept.mkdir()  # a file cannot replace it
    assert "namespaces.json" in str((await broker.admit("team-a")).refusal)
    kept.rmdir()
    assert (await broker.admit("team-a")).refusal is None


async def test_runtime_when_its_password_is_of_another_key_is_refused(broker: BrokerProcess) -> None:
    await broker.admit("team-a")
    with pytest.raises(nats.errors.Error, match=REFUSED):
        async with broker.runtime("team-a", key="another key"):
            pass


async def test_gateway_when_it_names_namespaces_is_not_heard(broker: BrokerProcess) -> None:
    gateway = await connect(broker.url, name="test", user=GATEWAY, password=SECRETS[GATEWAY_PASSWORD])
    await gateway.publish(subjects.ADMIT, AdmittedNamespaces(namespaces=("team-a",)).encode())
    await settle(gateway)
    await gateway.close()
    await broker.admit()  # what comes before it would have been obeyed before it
    assert "admitted: team-a" not in broker.log.read_text()


async def test_broker_when_restarted_then_keeps_namespaces_and_buckets(broker: BrokerProcess) -> None:
    await broker.admit("team-a")
    async with broker.loop() as loop:
        bucket = await loop.jetstream().create_key_value(bucket=subjects.ROUTES_BUCKET)
        await bucket.put("team-a.model", b"route")
    assert await broker.stop() == 0
    await broker.start()
    async with broker.loop() as loop, broker.runtime("team-a"):
        bucket = await loop.jetstream().key_value(subjects.ROUTES_BUCKET)
        assert (await bucket.get("team-a.model")).value == b"route"


async def test_broker_when_terminated_then_and_its_server_exit_cleanly(broker: BrokerProcess) -> None:
    server = broker.server_pid()
    assert await broker.stop() == 0
    assert is_gone(server)
    assert "Server Exiting" in broker.log.read_text()


async def test_broker_when_its_server_dies_ends_with_a_cause(broker: BrokerProcess) -> None:
    os.kill(broker.server_pid(), signal.SIGKILL)
    assert await broker.ended() == 1
    assert "nats-server exited with code -9" in broker.termination.read_text()


async def test_server_when_the_broker_is_killed_dies_too(broker: BrokerProcess) -> None:
    server = broker.server_pid()
    broker.signal(signal.SIGKILL)
    await until(lambda: is_gone(server), "the server is gone")


async def test_broker_when_a_port_is_taken_ends_with_a_cause(broker: BrokerProcess, tmp_path: Path) -> None:
    second = BrokerProcess(tmp_path / "second", monitoring_port=broker.monitoring_port)
    second.store.mkdir()
    await second.start()
    assert await second.ended() == 1
    assert "nats-server exited with code 1" in second.termination.read_text()


async def test_broker_when_it_is_a_first_process_collects_strangers(tmp_path: Path) -> None:
    broker = BrokerProcess(tmp_path / "data", before=f"{SUBREAPER}\n{ORPHAN}")
    broker.store.mkdir()
    await broker.start()
    await broker.ready()
    try:
        await until(lambda: broker.children() == [broker.server_pid()], "only the server is left")
    finally:
        assert await broker.stop() == 0


async def test_broker_when_running_then_healthy_and_no_secret_on_disk(broker: BrokerProcess) -> None:
    await broker.admit("team-a")
    assert broker.healthy()
    secrets = [SECRETS[RECONCILER_PASSWORD], SECRETS[GATEWAY_PASSWORD], KEY, runtime_password(KEY, "team-a")]
    written = b"".join(path.read_bytes() for path in broker.store.rglob("*") if path.is_file())
    environment = Path(f"/proc/{broker.server_pid()}/environ").read_bytes()
    assert not [secret for secret in secrets if secret.encode() in written + environment]
