"""Which endpoint a path is, where several patterns match it."""

from __future__ import annotations

import json

import pytest
from serving.serving_echo import EchoEngine

from headrace.http.paths import LiteralPath, PathTable
from headrace.serving.exchange import Endpoints
from headrace.serving.metrics import RuntimeMetrics
from headrace.serving.openai.endpoints import OpenAIEndpoints
from headrace.serving.replica import Replica

TABLE = PathTable(
    {
        ("GET", "/b/{id}"): "get",
        ("DELETE", "/b/{name}"): "delete",
        ("GET", "/b/{other}"): "never: an earlier pattern has the method",
        ("POST", "/b/new"): "new",
        ("GET", LiteralPath("/c/{id}")): "braces",
    }
)


def scope(path: str, method: str) -> dict[str, object]:
    return {"type": "http", "path": path, "raw_path": path.encode(), "method": method, "headers": []}


@pytest.mark.parametrize(
    ("method", "path", "endpoint", "parameters"),
    [
        ("GET", "/b/1", "get", {"id": "1"}),
        ("DELETE", "/b/1", "delete", {"name": "1"}),
        ("POST", "/b/new", "new", {}),
        ("DELETE", "/b/new", "delete", {"name": "new"}),
        ("HEAD", "/b/new", "get", {"id": "new"}),
        ("GET", "/c/{id}", "braces", {}),
        ("GET", "/c/1", None, None),
        ("PUT", "/b/1", None, None),
    ],
)
def test_path_when_several_match_then_the_first_with_the_method(
    method: str, path: str, endpoint: str | None, parameters: dict[str, str] | None
) -> None:
    found = TABLE.match(scope(path, method))
    assert (found and found.endpoint, found and found.parameters) == (endpoint, parameters)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/b/1", "GET, HEAD, DELETE"), ("/b/new", "POST, GET, HEAD, DELETE"), ("/c/1", None), ("/b/..", None)],
)
def test_allowed_when_several_rows_match_then_all_their_methods(path: str, allowed: str | None) -> None:
    assert TABLE.allowed(scope(path, "PUT")) == allowed


@pytest.mark.parametrize(("asked", "status"), [("{name}", 200), ("other", 404)])
async def test_model_name_with_braces_then_it_is_no_pattern(asked: str, status: int) -> None:
    replica: Replica[EchoEngine] = Replica()
    replica.loaded(EchoEngine(0.0))
    served = Endpoints(OpenAIEndpoints(replica, "{name}", RuntimeMetrics(replica, "{name}")).handlers())  # type: ignore[arg-type]  # an EchoEngine is a TextEngine
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        raise AssertionError

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message)

    await served(scope(f"/v1/models/{asked}", "GET"), receive, send)
    assert sent[0]["status"] == status
    assert json.loads(b"".join(message.get("body", b"") for message in sent))  # type: ignore[misc]  # bytes
