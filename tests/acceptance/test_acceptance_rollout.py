"""A changed spec is rolled out without a lost request, and back; keys open a namespace; the example works."""

from __future__ import annotations

import http.client
import json
import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from acceptance.acceptance_instance import Instance
from behaviours.behaviours_rollout import RolloutBehaviour
from behaviours.behaviours_world import until

pytestmark = pytest.mark.acceptance
ROOT = Path(__file__).parents[2]
TWO = """\
apiVersion: headrace.dev/v1alpha1
kind: ModelDeployment
metadata: {name: good}
spec: {model: {source: {uri: "file:///x"}}}
---
apiVersion: headrace.dev/v1alpha1
kind: ModelDeployment
metadata: {name: bad}
spec:
  replicas: many
  model: {source: {uri: "file:///x"}}
"""


class TestRollout(RolloutBehaviour):
    pass


def status_of(instance: Instance, key: str | None) -> tuple[int, str]:
    endpoint = urlsplit(instance.url)
    connection = http.client.HTTPConnection(endpoint.hostname or "", endpoint.port, timeout=30)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    connection.request("GET", "/v1/models", headers=headers)
    response = connection.getresponse()
    return response.status, response.read().decode()


def test_key_when_created_then_required_scoped_and_revocable(own_home: Path) -> None:
    instance = Instance(own_home).start()
    try:
        assert status_of(instance, None)[0] == 200
        key = instance.headrace("keys", "create", "app").splitlines()[0]
        until(lambda: status_of(instance, None)[0] == 401, "a key is needed now")
        assert status_of(instance, key)[0] == 200
        assert status_of(instance, "hr_default_wrong")[0] == 401
        secret = instance.headrace("get", "secrets", "-o", "json")
        assert key not in secret
        assert key.startswith("hr_default_")
        instance.headrace("keys", "create", "other")
        instance.headrace("keys", "revoke", "app")
        until(lambda: status_of(instance, key)[0] == 401, "the revoked key opens nothing")
    finally:
        assert instance.stop() == 0, instance.said()


def test_example_when_applied_then_request_is_answered_from_zero(own_home: Path) -> None:
    """What the README tells a new user to do, but for the shared model directory: nothing is fetched twice."""
    models = Path(os.environ.get("HEADRACE_HOME") or Path.home() / ".local/share/headrace") / "models"
    (own_home / "models").symlink_to(models)
    instance = Instance(own_home, files=[ROOT / "examples/smollm2.yaml"]).start()
    try:
        endpoint = urlsplit(instance.url)
        connection = http.client.HTTPConnection(endpoint.hostname or "", endpoint.port, timeout=60)
        question = {"role": "user", "content": "What is the capital of France?"}
        body = {"model": "smollm2-135m-instruct", "messages": [question], "temperature": 0, "max_tokens": 20}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        assert "Paris" in answer["choices"][0]["message"]["content"]
        assert "smollm2" in instance.said()
    finally:
        assert instance.stop() == 0, instance.said()


def test_detached_instance_when_started_then_down_ends_it(own_home: Path) -> None:
    """The prompt is back once it serves."""
    instance = Instance(own_home)
    told = instance.headrace("up", "--detach", "-f", str(ROOT / "examples/smollm2.yaml"))
    assert instance.url in told
    assert instance.names() == ["smollm2"]
    instance.headrace("down")
    assert instance.run("get", "mdep").returncode == 3


def test_apply_when_a_file_is_wrong_then_nothing_is_applied(instance: Instance, tmp_path: Path) -> None:
    """The error names the file's lines."""
    file = tmp_path / "two.yaml"
    file.write_text(TWO)
    done = instance.run("apply", "-f", str(file))
    assert done.returncode == 2
    assert f"{file}:10: spec.replicas: must be a whole number" in done.stderr
    assert "good" not in instance.names()
