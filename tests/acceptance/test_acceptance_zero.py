"""From zero and back, with conditions that tell the truth at each step."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest
from acceptance.acceptance_instance import Instance, model, until

pytestmark = pytest.mark.acceptance
SCALING = {"minReplicas": 0, "maxReplicas": 1, "idleTimeoutSeconds": 2}


@pytest.fixture(scope="module")
def zero(tmp_path_factory: pytest.TempPathFactory, smollm2_path: Path) -> Iterator[Instance]:
    instance = Instance(tmp_path_factory.mktemp("z")).start()
    instance.apply(model(smollm2_path, scaling=SCALING))
    yield instance
    assert instance.stop() == 0, instance.said()


def post(instance: Instance, body: dict[str, object]) -> http.client.HTTPResponse:
    endpoint = urlsplit(instance.url)
    connection = http.client.HTTPConnection(endpoint.hostname or "", endpoint.port, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    return connection.getresponse()


def asked(model_name: str, *, stream: bool = False) -> dict[str, object]:
    question = {"role": "user", "content": "What is the capital of France?"}
    return {"model": model_name, "messages": [question], "temperature": 0, "max_tokens": 20, "stream": stream}


def test_model_when_nobody_asks_then_it_is_idle_at_zero_and_a_request_wakes_it_and_it_goes_back(zero: Instance) -> None:
    zero.wait("smol", "Idle")
    assert zero.runtime_pids() == []
    client = openai.OpenAI(base_url=zero.url, api_key="none", max_retries=0)
    answer = client.chat.completions.create(**asked("smol"))  # type: ignore[call-overload]  # plain dicts
    assert "Paris" in answer.choices[0].message.content
    assert len(zero.runtime_pids()) == 1
    until(lambda: not zero.runtime_pids(), "the model is back at zero")
    zero.wait("smol", "Idle")
    cold_start = zero.get("mdep", "smol")["status"]["lastColdStart"]
    assert 0 < cold_start["podMilliseconds"] <= cold_start["readyMilliseconds"]


def test_stream_when_the_model_is_at_zero_then_comments_name_the_stages(zero: Instance) -> None:
    until(lambda: not zero.runtime_pids(), "the model is at zero")
    zero.wait("smol", "Idle")
    body = post(zero, asked("smol", stream=True)).read().decode()
    stages = [line for line in body.splitlines() if line.startswith(": headrace stage=")]
    assert any("loading" in stage for stage in stages), body
    assert "data: [DONE]" in body


def test_model_when_its_file_is_broken_then_the_request_and_describe_tell_the_same_cause(
    zero: Instance, tmp_path: Path, smollm2_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(smollm2_path.read_bytes()[:5_000_000])
    zero.apply(model(broken, "broken", scaling=SCALING))
    zero.wait("broken", "Idle")
    response = post(zero, asked("broken"))
    error = json.loads(response.read())["error"]
    assert response.status == 503
    assert response.headers["x-headrace-reason"] == "CrashLoop"
    assert "it was cut" in error["message"]
    assert error["message"].split(":")[-1].strip()[:60] in zero.headrace("describe", "mdep/broken")
    zero.headrace("delete", "mdep/broken")


def test_model_when_suspended_then_requests_are_refused_and_it_comes_back(zero: Instance, smollm2_path: Path) -> None:
    zero.apply(model(smollm2_path, scaling=SCALING, suspend=True))
    zero.wait("smol", "Suspended")
    response = until(lambda: r if (r := post(zero, asked("smol"))).status == 503 else None, "requests are refused")
    assert response.headers["x-headrace-reason"] == "Suspended"
    zero.apply(model(smollm2_path, scaling=SCALING))
    zero.wait("smol", "Idle")
    until(lambda: post(zero, asked("smol")).status == 200, "requests are answered")


def test_model_when_scaled_to_zero_without_scaling_then_it_is_off(zero: Instance, smollm2_path: Path) -> None:
    zero.apply(model(smollm2_path, "fixed", replicas=0))
    zero.wait("fixed", "ScaledToZero")
    response = post(zero, asked("fixed"))
    assert (response.status, response.headers["x-headrace-reason"]) == (503, "ScaledToZero")
    zero.headrace("scale", "mdep/fixed", "--replicas", "1")
    assert "condition met" in zero.headrace("wait", "mdep/fixed", "--timeout", "60s")
    zero.headrace("delete", "mdep/fixed")
    until(lambda: post(zero, asked("fixed")).status == 404, "a deleted model is unknown")


def test_replicas_when_scaling_rules_then_a_change_is_ignored_with_an_event(zero: Instance) -> None:
    assert "ignored" in zero.run("scale", "mdep/smol", "--replicas", "3").stderr
    until(lambda: "ScaleIgnored" in zero.headrace("describe", "mdep/smol"), "the event is there")


def test_source_when_it_does_not_exist_then_the_condition_names_it_and_it_heals(
    zero: Instance, tmp_path: Path, smollm2_path: Path
) -> None:
    late = tmp_path / "late.gguf"
    zero.apply(model(late, "late", scaling=SCALING))
    condition = zero.wait("late", "SourceUnreachable", "ModelCached")
    assert str(late) in condition["message"]
    late.hardlink_to(smollm2_path)
    zero.wait("late", "Cached", "ModelCached")
    zero.headrace("delete", "mdep/late")
