"""An engine that is brought as a container: it knows nothing of headrace, and is woken, served and put to rest."""

from __future__ import annotations

import openai
from behaviours.behaviours_traffic import asked
from behaviours.behaviours_world import SCALING, World, model, until, wait

INSIDE = "its-own-name"
"""By which the engine knows the model; clients use the public name."""


class BroughtBehaviour:
    """Needs the fixture `served`. The engine is ours, started as any other would be: it is told nothing of NATS."""

    def test_engine_when_brought_as_a_container_then_it_is_woken_by_a_request_and_rests_again(
        self, served: World
    ) -> None:
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
