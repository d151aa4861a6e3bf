"""A new runtime type needs its profile alone: it is accepted, started, routed to, scaled to zero and woken."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from local.local_instance import SECONDS, Up

from headrace.local.home import InstanceHome

PROGRAM = str(Path(__file__).with_name("runtimes_echo.py"))
MODEL: dict[str, Any] = {
    "apiVersion": "headrace.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "echo"},
    "spec": {"model": {"name": "org/echo"}, "runtime": {"type": "Echo"}, "scaling": {"minReplicas": 0}},
}


@pytest.fixture
def up(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[Up]:
    """An instance that knows the runtime type, with a model of it at zero."""
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(MODEL))
    arguments = ("-f", str(tmp_path / "model.yaml"))
    home = InstanceHome.of("default", tmp_path_factory.mktemp("r"))
    up = Up(home, arguments, program=(PROGRAM,)).start().wait_until_up()
    yield up
    up.process.terminate()
    assert up.ended()[0] == 0


def post(up: Up, path: str, **body: Any) -> tuple[int, Any]:
    content = json.dumps({"model": "org/echo", **body}).encode()
    request = urllib.request.Request(f"{up.endpoint}{path}", content, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_runtime_type_when_registered_then_a_model_of_it_serves(up: Up) -> None:
    status, answer = post(up, "/v1/completions", prompt="hello")
    assert (status, answer) == (200, {"choices": [{"text": "org/echo: hello"}]})
    status, answer = post(up, "/v1/chat/completions", messages=[{"role": "user", "content": "hello"}])
    assert (status, answer["error"]["code"]) == (400, "operation_not_supported")
