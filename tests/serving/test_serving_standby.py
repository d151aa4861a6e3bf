"""The process of a standby pod, with a real broker: probes, the launch, and the stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from nats.aio.client import Client
from serving.serving_client import ask
from serving.serving_processes import DEADLINE_SECONDS, NAMESPACE, POD, Broker, eventually, free_port

from headrace import environment
from headrace.events import subjects
from headrace.events.connection import connect, publish_if_connected
from headrace.events.messages import Launch

SCRIPT = """
import json, os, sys
from headrace.serving import standby
standby.LOAD_SECONDS = float(sys.argv[2])
words = standby.await_launch("127.0.0.1", int(sys.argv[1]), lambda: print("loaded", flush=True))
print(json.dumps([words, os.environ.get("HEADRACE_MODEL_DEPLOYMENT"), os.environ["MINE"]]), flush=True)
"""
LAUNCH = Launch(arguments=("serve", "--host", "$(HEADRACE_POD_IP)"), variables={environment.MODEL_DEPLOYMENT: "smol"})


class Standby:
    """A standby process on a port."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    async def says(self) -> str:
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), DEADLINE_SECONDS)).decode().strip()

    async def get(self, path: str) -> int:
        try:
            return (await ask(self.port, "GET", path)).status
        except OSError:
            return 0


@pytest_asyncio.fixture
async def loop(broker: Broker) -> AsyncIterator[Client]:
    client = await connect(broker.url, name="loop")
    yield client
    await client.close()


async def started(broker: Broker, *, load_seconds: float = 0.0, variables: dict[str, str] | None = None) -> Standby:
    port = free_port()
    given = {
        environment.NATS_URL: broker.url,
        environment.NAMESPACE: NAMESPACE,
        environment.POD_NAME: POD,
        environment.POD_IP: "127.0.0.1",
        "MINE": "1",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SCRIPT, str(port), str(load_seconds)),
        env={**os.environ, **given, **(variables or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    return Standby(process, port)


async def launch_until_it_ends(loop: Client, standby: Standby) -> None:
    """Publish the launch again and again, as passes do."""

    async def ended() -> bool:
        await publish_if_connected(loop, subjects.launch(NAMESPACE, POD), LAUNCH)
        await asyncio.sleep(0.05)
        return standby.process.returncode is not None

    await eventually(ended, "the process has got its launch")


async def test_standby_when_it_waits_then_alive_and_not_ready(broker: Broker, loop: Client) -> None:
    """Its port is free again for the replica, which has the launch's variables and those of the user."""
    standby = await started(broker)
    assert await standby.says() == "loaded"
    assert [await standby.get(path) for path in ("/health/live", "/health/ready")] == [200, 503]
    await launch_until_it_ends(loop, standby)
    assert json.loads(await standby.says()) == [["serve", "--host", "127.0.0.1"], "smol", "1"]
    assert await standby.get("/health/live") == 0


async def test_standby_when_launched_early_then_does_not_load_before(broker: Broker, loop: Client) -> None:
    standby = await started(broker, load_seconds=DEADLINE_SECONDS)
    await launch_until_it_ends(loop, standby)
    assert json.loads(await standby.says())[1] == "smol"


async def test_standby_when_terminated_then_exits_without_a_launch(broker: Broker) -> None:
    standby = await started(broker)
    assert await standby.says() == "loaded"
    standby.process.send_signal(signal.SIGTERM)
    assert json.loads(await standby.says()) == [None, None, "1"]
    assert await standby.process.wait() == 0


async def test_standby_when_variable_is_missing_then_message_names_it(broker: Broker, tmp_path: Path) -> None:
    message = tmp_path / "termination"
    variables = {environment.POD_NAME: "", environment.TERMINATION_MESSAGE_PATH: str(message)}
    standby = await started(broker, variables=variables)
    assert await standby.process.wait() != 0
    assert environment.POD_NAME in message.read_text()
