from __future__ import annotations

import asyncio
import json
import subprocess
import sysconfig
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.aio.subscription import Subscription
from sources.sources_fetcher import DEADLINE_SECONDS, Fetcher, until
from sources.sources_origin import Origin

from headrace import environment
from headrace.events import subjects
from headrace.events.messages import FetchProgress

NATS_SERVER = Path(sysconfig.get_path("scripts")) / "nats-server"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """A real NATS server on a port of its own."""
    ports = tmp_path / "ports"
    ports.mkdir()
    command = [str(NATS_SERVER), "--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir", str(ports)]
    command += ["--user", "runtime", "--pass", "hush"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    until(lambda: any(path.stat().st_size for path in ports.iterdir()))
    yield json.loads(next(ports.iterdir()).read_text())["nats"][0]
    process.terminate()
    process.wait()


@pytest.fixture(autouse=True)
def identity(fetcher: Fetcher) -> None:
    fetcher.environment |= {
        environment.NAMESPACE: "default",
        environment.MODEL_DEPLOYMENT: "smol",
        environment.POD_NAME: "smol-fetch-1",
        environment.NATS_USER: "runtime",
        environment.NATS_PASSWORD: "hush",
    }


@asynccontextmanager
async def _listening(url: str) -> AsyncIterator[Subscription]:
    client = await nats.connect(url, user="runtime", password="hush")
    yield await client.subscribe(subjects.ALL_PROGRESS)
    await client.close()


async def _heard(subscription: Subscription, received: int) -> FetchProgress:
    """Return the first progress that has so many bytes."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        async for message in subscription.messages:
            assert message.subject == subjects.progress("default", "smol")
            progress = FetchProgress.decode(message.data)
            if progress.received_bytes == received:
                return progress
    raise AssertionError("the subscription ended")


async def test_fetch_then_publishes_how_far_it_is_to_the_end(fetcher: Fetcher, origin: Origin, broker: str) -> None:
    fetcher.environment[environment.NATS_URL] = broker
    origin.hold_after, size = 1_024_000, len(origin.content)
    async with _listening(broker) as subscription:
        running = fetcher.start(origin.uri("/model.gguf?token=hush"))

        halfway = await _heard(subscription, 1_024_000)
        origin.go_on.set()
        whole = await _heard(subscription, size)

    assert (halfway.percent, whole.percent) == (25, 100)
    assert halfway.uri == origin.uri("/model.gguf")
    assert running.outcome().code == 0


def test_fetch_when_nats_is_away_then_succeeds_all_the_same(fetcher: Fetcher, origin: Origin) -> None:
    fetcher.environment[environment.NATS_URL] = "nats://127.0.0.1:1"

    assert fetcher.fetch(origin.uri()).code == 0


def test_fetch_when_nats_refuses_login_then_succeeds_and_hides(fetcher: Fetcher, origin: Origin, broker: str) -> None:
    fetcher.environment |= {environment.NATS_URL: broker, environment.NATS_PASSWORD: "wrong-secret"}

    outcome = fetcher.fetch(origin.uri())

    assert outcome.code == 0
    assert "wrong-secret" not in outcome.output
