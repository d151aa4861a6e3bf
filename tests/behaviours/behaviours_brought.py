"""An engine that is brought as a container: it knows nothing of headrace, and is woken, served and put to rest."""

from __future__ import annotations

from functools import partial
from typing import Any

import openai
from behaviours.behaviours_traffic import asked
from behaviours.behaviours_world import SCALING, Engine, Manifest, World, model, until, wait

INSIDE = "its-own-name"
"""By which the engine knows the model; clients use the public name."""
SEEN_SECONDS = 10
"""So long it stays when nobody asks: time enough for a look at it."""


class BroughtBehaviour:
    """Needs the fixtures `served` and `engine`."""

    def test_engine_when_nobody_here_wrote_it_then_it_is_woken_answers_streams_and_rests_again(
        self, served: World, engine: Engine
    ) -> None:
        container = {
            "image": engine.image,
            "command": ["transformers", "serve", engine.weights],
            "args": ["--device", "cpu", "--host", "$(HEADRACE_POD_IP)", "--port", "8000"],
            "modelName": engine.weights,
            "maxConcurrentRequests": 2,
        }
        manifest = model(
            None,
            "foreign",
            runtime={"type": "Container", "container": container},
            scaling={**SCALING, "idleTimeoutSeconds": SEEN_SECONDS},
            template={"env": [{"name": "HF_HUB_OFFLINE", "value": "1"}]},
        )
        served.apply(manifest)
        wait(served, "foreign", "Idle")
        assert served.lives("foreign") == []

        client = openai.OpenAI(base_url=served.base_url, api_key=served.api_key, max_retries=0)
        hello = [{"role": "user", "content": "hello"}]
        chat: Any = partial(client.chat.completions.create, model="foreign", messages=hello, max_tokens=4)
        assert chat().usage.completion_tokens == 4
        with chat(stream=True) as stream:
            ends = [choice.finish_reason for chunk in stream for choice in chunk.choices]
        assert ends[-1] == "length"

        def running() -> Manifest | None:
            status: Manifest = served.get("foreign")["status"]
            return status if status.get("readyReplicas") == 1 else None

        status = until(running, "it runs", served.patience)
        assert len(served.lives("foreign")) == 1
        assert status["capabilities"] == []
        assert {each["type"]: each["reason"] for each in status["conditions"]}["ModelCached"] == "NoSource"

        wait(served, "foreign", "Idle")
        until(lambda: served.lives("foreign") == [], "it rests again", served.patience)
        served.delete("foreign")

    def test_engine_when_it_serves_a_source_then_it_is_told_its_path_and_is_woken_by_a_request_and_rests_again(
        self, served: World
    ) -> None:
        """The engine is ours, started as any other would be: it is told nothing of NATS."""
        container = {
            "image": served.engine_image,
            "command": ["headrace-llm"],
            "args": [
                *("serve", "$(HEADRACE_MODEL_PATH)"),
                *("--served-model-name", INSIDE),
                *("--host", "$(HEADRACE_POD_IP)"),
                *("--port", "8000"),
            ],
            "readinessPath": "/health/ready",
            "modelName": INSIDE,
        }
        served.apply(
            model(served.model_uri, "brought", runtime={"type": "Container", "container": container}, scaling=SCALING)
        )
        wait(served, "brought", "Idle")
        client = openai.OpenAI(base_url=served.base_url, api_key=served.api_key, max_retries=0)
        answer = client.chat.completions.create(**asked("brought"))  # type: ignore[call-overload]  # plain dicts
        assert "Paris" in answer.choices[0].message.content
        until(lambda: served.get("brought")["status"]["replicas"] == 1, "it runs", served.patience)
        until(lambda: served.get("brought")["status"]["replicas"] == 0, "it rests again", served.patience)
        served.delete("brought")
