"""From zero and back, with conditions that tell the truth at each step."""

from __future__ import annotations

import json
from pathlib import Path

import openai
from behaviours.behaviours_traffic import asked, post, send, short
from behaviours.behaviours_world import BROKEN_BYTES, SCALING, World, model, until, wait


class ZeroBehaviour:
    """Needs the fixture `zero`: a world with the model `smol`, which rests after two seconds; and `smollm2_path`."""

    def test_model_when_idle_then_at_zero_and_a_request_wakes_it(self, zero: World) -> None:
        wait(zero, "smol", "Idle")
        until(lambda: not zero.lives("smol"), "the model is at zero", zero.patience)
        client = openai.OpenAI(base_url=zero.base_url, api_key=zero.api_key, max_retries=0)
        answer = client.chat.completions.create(**asked("smol"))  # type: ignore[call-overload]  # plain dicts
        assert "Paris" in answer.choices[0].message.content
        assert len(zero.lives("smol")) == 1
        until(lambda: not zero.lives("smol"), "the model is back at zero", zero.patience)
        wait(zero, "smol", "Idle")
        cold_start = zero.get("smol")["status"]["lastColdStart"]
        assert 0 < cold_start["podMilliseconds"] <= cold_start["readyMilliseconds"]

    def test_stream_when_model_is_at_zero_then_comments_have_stages(self, zero: World) -> None:
        until(lambda: not zero.lives("smol"), "the model is at zero", zero.patience)
        wait(zero, "smol", "Idle")
        body = send(zero, "/chat/completions", asked("smol", stream=True)).read().decode()
        stages = [line for line in body.splitlines() if line.startswith(": headrace stage=")]
        assert any("loading" in stage for stage in stages), body
        assert "data: [DONE]" in body

    def test_model_when_file_is_broken_then_all_report_same_cause(self, zero: World, smollm2_path: Path) -> None:
        """The request's error and `describe` have the same text."""
        with smollm2_path.open("rb") as whole:
            zero.put("broken.gguf", whole.read(BROKEN_BYTES))
        zero.apply(model(zero.uri("broken.gguf"), "broken", scaling=SCALING))
        wait(zero, "broken", "Idle")
        response = send(zero, "/chat/completions", asked("broken"))
        error = json.loads(response.read())["error"]
        assert response.status == 503, error
        assert response.headers["x-headrace-reason"] == "CrashLoop", error
        assert "it was cut" in error["message"]
        assert error["message"].split(":")[-1].strip()[:60] in zero.describe("broken")
        zero.delete("broken")

    def test_model_when_suspended_then_refuses_and_can_resume(self, zero: World) -> None:
        zero.apply(model(zero.model_uri, scaling=SCALING, suspend=True))
        wait(zero, "smol", "Suspended")

        def refused() -> str | None:
            response = send(zero, "/chat/completions", asked("smol"))
            response.read()
            return response.headers["x-headrace-reason"] if response.status == 503 else None

        assert until(refused, "requests are refused", zero.patience) == "Suspended"
        zero.apply(model(zero.model_uri, scaling=SCALING))
        wait(zero, "smol", "Idle")
        until(lambda: post(zero, "/completions", short())[0] == 200, "requests are answered", zero.patience)

    def test_model_when_scaled_to_zero_without_scaling_then_off(self, zero: World) -> None:
        zero.apply(model(zero.model_uri, "fixed", replicas=0))
        wait(zero, "fixed", "ScaledToZero")
        # The status says that the model is off; that a gateway knows it is promised of what is Ready alone.
        until(lambda: refusal(zero, "fixed") == (503, "ScaledToZero"), "requests are refused", zero.patience)
        zero.scale("fixed", 1)
        wait(zero, "fixed", "Running")
        assert post(zero, "/completions", short("fixed"))[0] == 200
        zero.delete("fixed")
        until(lambda: post(zero, "/completions", short("fixed"))[0] == 404, "it is unknown once deleted", zero.patience)

    def test_replicas_when_scaling_decides_then_a_change_is_an_event(self, zero: World) -> None:
        """The change of `replicas` is ignored."""
        zero.scale("smol", 3)
        until(lambda: "ScaleIgnored" in zero.describe("smol"), lambda: zero.describe("smol"), zero.patience)

    def test_source_when_missing_then_condition_has_it_and_heals(self, zero: World, smollm2_path: Path) -> None:
        zero.apply(model(zero.uri("late.gguf"), "late", scaling=SCALING))
        assert "late.gguf" in wait(zero, "late", "SourceUnreachable", "ModelCached")["message"]
        zero.put("late.gguf", smollm2_path.read_bytes())
        wait(zero, "late", "Cached", "ModelCached")
        zero.delete("late")


def refusal(world: World, name: str) -> tuple[int, str | None]:
    """Ask; return the status and the reason."""
    with send(world, "/chat/completions", asked(name)) as response:
        return response.status, response.headers["x-headrace-reason"]
