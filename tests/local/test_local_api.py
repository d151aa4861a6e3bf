"""The instance's API over its Unix socket, as the command line's client and as a plain HTTP client see it."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from headrace.api.vocabulary import API_KEY_LABEL
from headrace.cli.client import ApiClient
from headrace.environment import NATS_SECRET
from headrace.errors import HeadraceError, InvalidResource, NotFound
from headrace.kinds.registry import KINDS
from headrace.local.api import MAX_BODY_BYTES, Api
from headrace.local.api_server import ApiServer
from headrace.local.api_shapes import REDACTED
from headrace.local.cluster import LocalCluster
from headrace.local.home import Record
from headrace.local.objects import Objects
from headrace.reconcile.world import Manifest, ObjectKey

SECONDS = 10.0
T = TypeVar("T")
MODEL = yaml.safe_load(
    """
    apiVersion: headrace.dev/v1alpha1
    kind: ModelDeployment
    metadata: {name: tiny, namespace: default}
    spec:
      model: {source: {uri: "https://example.org/tiny.gguf"}}
    """
)
RECORD = Record("default", 42, "0.1.0", "http://127.0.0.1:8080", "2026-01-01T00:00:00Z", "/home")


class Served:
    """An API over a cluster of its own."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "headrace.sock"
        self.cluster = LocalCluster(directory / "state.sqlite", directory / "logs")
        self.namespaces: list[str] = []
        self.stopping = asyncio.Event()
        self.asked_to_stop = asyncio.Event()
        self.client = ApiClient(self.socket)
        api = Api(Objects(self.cluster, self.namespaces.append), RECORD, self.stopping, self.asked_to_stop.set)
        self.server = ApiServer(api.app(), self.socket)

    async def call(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Call a blocking method of the client while the server runs in this loop."""
        async with asyncio.timeout(SECONDS):
            return await asyncio.to_thread(function, *arguments, **options)

    async def apply(self, manifest: Manifest, *, dry_run: bool = False) -> str:
        applied = await self.call(self.client.apply, KINDS[manifest["kind"]], manifest, dry_run=dry_run)
        return applied.verb

    async def request(
        self, method: str, path: str, body: bytes = b"", content_type: str = "application/apply-patch+json"
    ) -> tuple[int, dict[str, Any]]:
        return await self.call(_raw, self.socket, method, path, body, content_type)


def _raw(path: Path, method: str, target: str, body: bytes, content_type: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(SECONDS)
    connection.sock.connect(str(path))
    try:
        connection.request(method, target, body, {"Content-Type": content_type})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    served = Served(tmp_path)
    await served.cluster.start()
    listening = asyncio.Event()
    serving = asyncio.create_task(served.server.run(listening))
    await listening.wait()
    try:
        yield served
    finally:
        served.stopping.set()
        served.server.stop()
        async with asyncio.timeout(SECONDS):
            await serving
        await served.cluster.stop(1)


def model(**changes: Any) -> Manifest:
    return {**MODEL, "spec": {**MODEL["spec"], **changes}}


def secret(name: str = "key", **fields: Any) -> Manifest:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "default"}, **fields}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def test_socket_when_served_is_for_its_user_alone(served: Served) -> None:
    assert stat.S_IMODE(served.socket.stat().st_mode) == 0o600


async def test_apply_when_new_changed_and_equal_then_says_so(served: Served) -> None:
    assert await served.apply(model()) == "created"
    assert await served.apply(model()) == "unchanged"
    assert await served.apply(model(replicas=2)) == "configured"


async def test_apply_when_done_then_the_object_has_its_defaults(served: Served) -> None:
    await served.apply(model())
    found = await served.call(served.client.get, KINDS["ModelDeployment"], "default", "tiny")
    assert found["spec"]["rollout"] == {
        "type": "RollingUpdate",
        "startupDeadlineSeconds": 600,
        "drainTimeoutSeconds": 30,
    }
    assert found["metadata"]["generation"] == 1


async def test_apply_when_a_field_is_left_out_resets_it(served: Served) -> None:
    await served.apply(model(replicas=3))
    await served.apply(model())
    found = await served.call(served.client.get, KINDS["ModelDeployment"], "default", "tiny")
    assert found["spec"]["replicas"] == 1


async def test_apply_when_invalid_then_every_fault_is_named(served: Served) -> None:
    with pytest.raises(InvalidResource) as raised:
        await served.apply(model(replicas=-1, unknown=1))
    assert {cause.field for cause in raised.value.causes} == {"spec.replicas", "spec.unknown"}


async def test_apply_when_dry_run_then_nothing_is_stored(served: Served) -> None:
    assert await served.apply(model(), dry_run=True) == "created"
    assert await served.call(served.client.get, KINDS["ModelDeployment"], "default") == {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "ModelDeploymentList",
        "metadata": {},
        "items": [],
    }
    assert served.namespaces == []


async def test_apply_when_to_a_namespace_then_it_is_admitted_first(served: Served) -> None:
    await served.apply({**model(), "metadata": {"name": "tiny", "namespace": "team-a"}})
    assert served.namespaces == ["team-a"]


@pytest.mark.parametrize("namespace", ["*", ">", "a.b", "A", "x" * 64])
async def test_apply_when_the_namespace_is_no_label_then_it_is_refused(served: Served, namespace: str) -> None:
    manifest = {**model(), "metadata": {"name": "tiny", "namespace": namespace}}
    path = f"/apis/headrace.dev/v1alpha1/namespaces/{namespace}/modeldeployments/tiny"
    status, answer = await served.request("PATCH", path, json.dumps(manifest).encode())
    assert status == 422
    assert answer["details"]["causes"][0]["field"] == "metadata.namespace"
    assert served.namespaces == []


async def test_apply_when_made_by_headrace_then_it_is_refused(served: Served) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"}}
    status, answer = await served.request("PATCH", "/api/v1/namespaces/default/pods/p", json.dumps(pod).encode())
    assert (status, answer["reason"]) == (405, "MethodNotAllowed")


MODEL_PATH = "/apis/headrace.dev/v1alpha1/namespaces/default/modeldeployments/tiny"


@pytest.mark.parametrize(
    ("method", "path", "body", "content_type", "status"),
    [
        ("PATCH", MODEL_PATH, b"{", "application/apply-patch+json", 400),
        ("PATCH", MODEL_PATH, b"[]", "application/apply-patch+json", 400),
        ("PATCH", MODEL_PATH, b"[" * 100_000, "application/apply-patch+json", 400),
        ("PATCH", MODEL_PATH, b"{}", "application/apply-patch+json", 400),
        ("PATCH", MODEL_PATH, b"{}", "application/json", 415),
        ("PATCH", MODEL_PATH, b" " * (MAX_BODY_BYTES + 1), "application/apply-patch+json", 413),
        ("PATCH", MODEL_PATH.replace("tiny", "other"), json.dumps(MODEL).encode(), "application/apply-patch+json", 400),
        ("PATCH", MODEL_PATH + "/scale", b'{"spec": {"replicas": "2"}}', "application/merge-patch+json", 400),
        ("PATCH", MODEL_PATH + "/scale", b'{"spec": {"replicas": 2}}', "application/merge-patch+json", 404),
        ("DELETE", MODEL_PATH, b"", "", 404),
        ("POST", MODEL_PATH, b"{}", "application/json", 405),
        ("GET", MODEL_PATH, b"", "", 404),
        ("GET", "/apis/headrace.dev/v1/modeldeployments", b"", "", 404),
        ("GET", "/api/v1/nodes", b"", "", 404),
        ("GET", "/nothing", b"", "", 404),
        ("GET", "/api/v1/namespaces/default/pods/none/log", b"", "", 404),
        ("GET", "/api/v1/namespaces/default/pods/none/log?tailLines=-1", b"", "", 400),
    ],
)
async def test_request_when_wrong_then_the_answer_is_a_status(
    served: Served, method: str, path: str, body: bytes, content_type: str, status: int
) -> None:
    code, answer = await served.request(method, path, body, content_type)
    assert (code, answer["kind"], answer["status"], answer["code"]) == (status, "Status", "Failure", status)
    assert answer["message"]


async def test_scale_when_asked_then_only_replicas_change(served: Served) -> None:
    await served.apply(model())
    await served.call(served.client.scale, KINDS["ModelDeployment"], "default", "tiny", 3)
    found = await served.call(served.client.get, KINDS["ModelDeployment"], "default", "tiny")
    assert found["spec"]["replicas"] == 3
    assert found["metadata"]["generation"] == 2


async def test_scale_when_out_of_bounds_then_it_is_refused(served: Served) -> None:
    await served.apply(model())
    with pytest.raises(InvalidResource, match="is invalid"):
        await served.call(served.client.scale, KINDS["ModelDeployment"], "default", "tiny", -1)


async def test_delete_when_done_then_it_is_not_found(served: Served) -> None:
    await served.apply(model())
    await served.call(served.client.delete, KINDS["ModelDeployment"], "default", "tiny")
    with pytest.raises(NotFound, match="tiny"):
        await served.call(served.client.get, KINDS["ModelDeployment"], "default", "tiny")


async def test_secret_when_read_then_its_values_are_not_shown(served: Served) -> None:
    assert await served.apply(secret(data={"a": encoded("hush")}, stringData={"b": "psst"})) == "created"
    found = await served.call(served.client.get, KINDS["Secret"], "default", "key")
    listed = await served.call(served.client.get, KINDS["Secret"], None)
    assert found["data"] == listed["items"][0]["data"] == {"a": REDACTED, "b": REDACTED}
    stored = served.cluster.index.get(ObjectKey("Secret", "default", "key"))
    assert stored is not None
    assert stored["data"] == {"a": encoded("hush"), "b": encoded("psst")}


async def test_secret_when_watched_then_its_values_are_not_shown(served: Served) -> None:
    await served.apply(secret(data={"a": encoded("hush")}))
    changes = await served.call(served.client.watch, KINDS["Secret"], "default")
    first = await served.call(next, changes)
    assert first["object"]["data"] == {"a": REDACTED}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"data": {"a": "no base64!"}}, "data.a"),
        ({"data": {"a": base64.b64encode(b"\xff").decode()}}, "data.a"),
        ({"data": ["a"]}, "data"),
        ({"data": {"a/b": ""}}, "data"),
        ({"spec": {}}, "spec"),
    ],
)
async def test_secret_when_malformed_then_it_is_refused(served: Served, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidResource) as raised:
        await served.apply(secret(**fields))
    assert [cause.field for cause in raised.value.causes] == [field]


async def test_api_key_when_it_has_no_digest_then_it_is_refused(served: Served) -> None:
    key = secret(stringData={"sha256": "not a digest"})
    key["metadata"]["labels"] = {API_KEY_LABEL: "true"}
    with pytest.raises(InvalidResource) as raised:
        await served.apply(key)
    assert [cause.field for cause in raised.value.causes] == ["data.sha256"]


async def test_platform_secret_cannot_be_changed_by_users(served: Served) -> None:
    served.cluster.provide_secret("default", NATS_SECRET, {"user": "runtime-default"})
    with pytest.raises(InvalidResource):
        await served.apply(secret(NATS_SECRET, data={}))
    with pytest.raises(HeadraceError, match="managed by headrace"):
        await served.call(served.client.delete, KINDS["Secret"], "default", NATS_SECRET)


async def test_watch_when_objects_change_then_each_change_comes(served: Served) -> None:
    await served.apply(model())
    changes = await served.call(served.client.watch, KINDS["ModelDeployment"], "default")
    assert (await served.call(next, changes))["type"] == "ADDED"
    await served.apply(model(replicas=2))
    second = await served.call(next, changes)
    assert (second["type"], second["object"]["spec"]["replicas"]) == ("MODIFIED", 2)
    await served.call(served.client.delete, KINDS["ModelDeployment"], "default", "tiny")
    assert (await served.call(next, changes))["type"] == "DELETED"


async def test_watch_includes_changes_before_its_first_read(served: Served) -> None:
    changes = await served.call(served.client.watch, KINDS["ModelDeployment"], "default")
    await served.apply(model())
    await served.call(served.client.delete, KINDS["ModelDeployment"], "default", "tiny")
    assert [(await served.call(next, changes))["type"] for _ in range(2)] == ["ADDED", "DELETED"]


async def test_watch_when_the_instance_stops_then_it_ends(served: Served) -> None:
    await served.apply(model())
    changes = await served.call(served.client.watch, KINDS["ModelDeployment"], None)
    await served.call(next, changes)
    served.stopping.set()
    assert await served.call(next, changes, None) is None


async def test_instance_when_asked_then_it_tells_of_itself(served: Served) -> None:
    assert await served.call(served.client.instance) == RECORD.as_json()


async def test_shutdown_when_asked_then_the_instance_is_told(served: Served) -> None:
    await served.call(served.client.shutdown)
    assert served.asked_to_stop.is_set()
