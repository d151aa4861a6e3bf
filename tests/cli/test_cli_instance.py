"""The commands over a Unix socket, with a cluster behind it that reconciles nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from headrace.cli.main import main
from headrace.local.api import Api
from headrace.local.api_server import ApiServer
from headrace.local.cluster import LocalCluster
from headrace.local.home import InstanceHome, Record
from headrace.local.objects import Objects

SECONDS = 10.0
RECORD = Record("default", 42, "0.1.0", "http://127.0.0.1:8080", "2026-01-01T00:00:00Z", "/home")
FILE = """\
apiVersion: headrace.dev/v1alpha1
kind: ModelDeployment
metadata: {name: tiny}
spec:
  model: {source: {uri: "https://example.org/tiny.gguf"}}
"""


class Session:
    """Commands against a served API; `said` and `complained` are what the last one printed."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.file = directory / "tiny.yaml"
        self.file.write_text(FILE)
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


@pytest.fixture
async def session(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Session]:
    directory = tmp_path_factory.mktemp("c")  # short: a socket's path is
    monkeypatch.setenv("HEADRACE_HOME", str(directory))
    socket = InstanceHome.of("default").socket
    socket.parent.mkdir(parents=True)
    cluster = LocalCluster(directory / "state.sqlite", directory / "logs")
    await cluster.start()
    session = Session(directory, capsys)
    api = Api(Objects(cluster, lambda _: None), RECORD, session.stopping, lambda: None)
    server = ApiServer(api.app(), socket)
    listening = asyncio.Event()
    serving = asyncio.create_task(server.run(listening))
    await listening.wait()
    yield session
    session.stopping.set()
    server.stop()
    async with asyncio.timeout(SECONDS):
        await serving
    await cluster.stop(1)


async def test_apply_when_new_equal_and_changed_then_it_says_so(session: Session) -> None:
    for verb, text in (("created", FILE), ("unchanged", FILE), ("configured", FILE + "  replicas: 2\n")):
        session.file.write_text(text)
        assert await session.apply() == 0
        assert session.said == f"modeldeployment/tiny {verb}\n"


async def test_apply_when_a_field_is_wrong_then_its_line_is_named_and_nothing_is_applied(session: Session) -> None:
    session.file.write_text(FILE + "  replicas: -1\n")
    assert await session.apply() == 2
    assert f"{session.file}:6: spec.replicas" in session.complained
    assert await session.headrace("get", "mdep") == 0
    assert "no modeldeployments" in session.complained


async def test_get_when_a_format_is_asked_for_then_it_is_that(session: Session) -> None:
    await session.apply()
    await session.headrace("get", "mdep", "tiny", "-o", "json")
    assert json.loads(session.said)["metadata"]["name"] == "tiny"
    await session.headrace("get", "mdep/tiny", "-o", "yaml")
    assert yaml.safe_load(session.said)["kind"] == "ModelDeployment"
    await session.headrace("get", "mdep", "-o", "name")
    assert session.said == "modeldeployment/tiny\n"
    await session.headrace("get", "mdep")
    assert "MESSAGE" not in session.said
    await session.headrace("get", "mdep", "-A", "-o", "wide")
    assert session.said.startswith("NAMESPACE")
    assert "MESSAGE" in session.said


async def test_get_when_it_watches_then_it_prints_until_the_instance_ends(session: Session) -> None:
    await session.apply()
    watching = asyncio.create_task(session.headrace("get", "mdep", "-o", "name", "--watch"))
    await asyncio.to_thread(main, ["scale", "mdep/tiny", "--replicas", "2"])
    session.stopping.set()
    await watching
    assert "modeldeployment/tiny\n" in session.said


async def test_scale_when_asked_then_the_replicas_are_those(session: Session) -> None:
    await session.apply()
    assert await session.headrace("scale", "mdep/tiny", "--replicas", "3") == 0
    await session.headrace("get", "mdep/tiny", "-o", "json")
    assert json.loads(session.said)["spec"]["replicas"] == 3


async def test_wait_when_the_condition_does_not_come_then_it_ends_in_time(session: Session) -> None:
    await session.apply()
    assert await session.headrace("wait", "mdep/tiny", "--timeout", "0.2s") == 1
    assert "did not meet condition=Ready in 0.2s" in session.complained


async def test_wait_when_for_deletion_then_it_ends_with_it(session: Session) -> None:
    await session.apply()
    waiting = asyncio.create_task(asyncio.to_thread(main, ["wait", "mdep/tiny", "--for", "delete", "--timeout", "5s"]))
    assert await asyncio.to_thread(main, ["delete", "mdep/tiny"]) == 0
    assert await waiting == 0


@pytest.mark.parametrize(
    ("command", "see"),
    [
        ("get mdep/no", "headrace get modeldeployments"),
        ("describe mdep/no", "headrace get modeldeployments"),
        ("delete mdep/no", "headrace get modeldeployments"),
        ("delete mdep/no -n elsewhere", "headrace get modeldeployments -n elsewhere"),
        ("scale mdep/no --replicas 1", "headrace get modeldeployments"),
        ("wait no", "headrace get modeldeployments"),
        ("logs no", "headrace get modeldeployments"),
        ("logs pod/no", "headrace get pods"),
        ("keys revoke no", "headrace keys list"),
        ("keys revoke no -n elsewhere", "headrace keys list -n elsewhere"),
    ],
)
async def test_object_when_it_is_not_there_then_the_error_says_where_to_look(
    session: Session, command: str, see: str
) -> None:
    assert await session.headrace(*command.split()) == 1
    assert session.complained.startswith("error: ")
    assert f"`{see}`" in session.complained


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("logs secret/x", 2, "mdep/NAME or pod/NAME"),
        ("logs tiny", 1, "`headrace describe mdep/tiny`"),
        ("keys create Not_A_Name", 2, "must be a DNS name"),
        ("apply -f {unknown}", 2, "headrace.dev/v1alpha1 ModelDeployment"),
        ("apply -f {empty}", 2, "A resource is a mapping with apiVersion"),
        ("apply -f {absent}", 2, "Give the path of a resource file"),
    ],
)
async def test_command_when_it_cannot_be_done_then_the_error_says_what_can(
    session: Session, tmp_path: Path, command: str, code: int, says: str
) -> None:
    await session.apply()
    (tmp_path / "unknown").write_text("apiVersion: v1\nkind: Foo\nmetadata: {name: x}\n")
    (tmp_path / "empty").write_text("---\n")
    files = {name: tmp_path / name for name in ("unknown", "empty", "absent")}
    assert await session.headrace(*command.format(**files).split()) == code
    assert says in session.complained


async def test_keys_when_the_name_is_taken_then_the_error_says_how_to_go_on(session: Session) -> None:
    await session.headrace("keys", "create", "app")
    assert await session.headrace("keys", "create", "app") == 1
    assert "`headrace keys revoke app`" in session.complained


async def test_describe_when_a_model_is_there_then_it_is_told(session: Session) -> None:
    await session.apply()
    assert await session.headrace("describe", "mdep/tiny") == 0
    assert "tiny" in session.said


async def test_keys_when_created_then_listed_without_the_key_and_deleted(session: Session) -> None:
    assert await session.headrace("keys", "create", "app") == 0
    key = session.said.split()[-1]
    assert await session.headrace("keys", "list") == 0
    assert "app" in session.said
    assert key not in session.said
