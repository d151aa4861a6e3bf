"""Commands over a Unix socket, with a cluster behind it that reconciles nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from headrace.api.vocabulary import MODEL_DEPLOYMENT
from headrace.cli.main import main
from headrace.local.api import Api
from headrace.local.api_server import ApiServer
from headrace.local.cluster import LocalCluster
from headrace.local.home import InstanceHome, Record
from headrace.local.objects import Objects
from headrace.reconcile.world import ResourceKey

SECONDS = 10.0
TINY = ResourceKey(MODEL_DEPLOYMENT, "default", "tiny")
FILE = """\
apiVersion: headrace.dev/v1alpha1
kind: ModelDeployment
metadata: {name: tiny}
spec:
  model: {source: {uri: "https://example.org/tiny.gguf"}}
"""


class Session:
    """Commands against a served API; `said` and `complained` are what the last one printed."""

    def __init__(self, directory: Path, cluster: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
        self.file = directory / "tiny.yaml"
        self.file.write_text(FILE)
        self.cluster = cluster
        self.stopping = asyncio.Event()
        self.said = self.complained = ""
        self._capsys = capsys

    async def headrace(self, *words: str) -> int:
        async with asyncio.timeout(SECONDS):
            code = await asyncio.to_thread(main, list(words))
        self.said, self.complained = self._capsys.readouterr()
        return code

    async def apply(self) -> int:
        return await self.headrace("apply", "-f", str(self.file))


@asynccontextmanager
async def serving_session(
    home: InstanceHome, capsys: pytest.CaptureFixture[str], endpoint: str = "http://127.0.0.1:8080"
) -> AsyncIterator[Session]:
    """Serve the API of an instance whose gateway is said to be at the endpoint."""
    home.make()
    cluster = LocalCluster(home.state, home.logs / "pods")
    await cluster.start()
    session = Session(home.root, cluster, capsys)
    record = Record("default", 42, "0.1.0", endpoint, "2026-01-01T00:00:00Z", "/home")
    api = Api(Objects(cluster, lambda _: None), record, session.stopping, lambda: None)
    server = ApiServer(api.app(), home.socket)
    listening = asyncio.Event()
    serving = asyncio.create_task(server.run(listening))
    await listening.wait()
    try:
        yield session
    finally:
        session.stopping.set()
        server.stop()
        async with asyncio.timeout(SECONDS):
            await serving
        await cluster.stop(1)
