"""A custom container without the runtime protocol: it starts from zero, serves, and scales to zero."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import openai
from behaviours.behaviours_traffic import Traffic, asked, post, send, short
from behaviours.behaviours_world import SCALING, Engine, Manifest, World, model, revisions, until, wait

CONTRACT = Path(__file__).parents[2] / "docs/reference/runtime-contract.md"
INSIDE = "its-own-name"
"""By which the engine knows the model; clients use the public name."""
LONG = 800
"""For so many tokens that engine takes 8 s."""
SEEN_SECONDS = 10
"""So long it stays when nobody asks: time enough for a look at it."""


class CustomContainerBehaviour:
    """Needs the fixtures `served` and `engine`."""

    def test_engine_when_custom_container_then_wakes_and_idles(self, served: World, engine: Engine) -> None:
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

    def test_engine_when_it_serves_a_source_then_it_gets_its_path(self, served: World) -> None:
        """The engine is ours, started as any other would be: it is told nothing of NATS."""
        runtime = {"type": "Container", "container": ours(served)}
        served.apply(model(served.model_uri, "custom", runtime=runtime, scaling=SCALING))
        wait(served, "custom", "Idle")
        client = openai.OpenAI(base_url=served.base_url, api_key=served.api_key, max_retries=0)
        answer = client.chat.completions.create(**asked("custom"))  # type: ignore[call-overload]  # plain dicts
        assert "Paris" in answer.choices[0].message.content
        until(lambda: served.get("custom")["status"]["replicas"] == 1, "it runs", served.patience)
        until(lambda: served.get("custom")["status"]["replicas"] == 0, "it rests again", served.patience)
        served.delete("custom")

    def test_engine_when_self_registering_then_its_stages_reported(self, served: World) -> None:
        """The engine is ours, which speaks the runtime contract wherever it is told who it is."""
        runtime = {"type": "Container", "container": {**ours(served), "announces": True}}
        served.apply(model(served.model_uri, "announcing", runtime=runtime, scaling=SCALING))
        wait(served, "announcing", "Idle")
        assert served.get("announcing")["status"]["capabilities"] == ["Drain", "LoadReports", "Progress"]
        body = send(served, "/chat/completions", asked("announcing", stream=True)).read().decode()
        assert "data: [DONE]" in body
        # Nobody who is asked whether he is ready can say how far he is.
        assert ": headrace stage=loading-weights" in body
        until(lambda: served.get("announcing")["status"]["replicas"] == 0, "it rests again", served.patience)
        served.delete("announcing")

    def test_engine_when_of_the_docs_then_replaced_without_a_failure(self, served: World) -> None:
        """It is the example of `docs/reference/runtime-contract.md`; its source is the engine itself."""
        program = CONTRACT.read_text().partition("```python\n")[2].partition("```")[0]
        served.put("engine.py", program.encode())
        container = {
            "image": served.engine_image,
            "command": ["python", "$(HEADRACE_MODEL_PATH)"],
            "announces": True,
        }
        runtime = {"type": "Container", "container": container}
        written = model(served.uri("engine.py"), "written", runtime=runtime, replicas=1)
        served.apply(written)
        wait(served, "written", "Running")
        client = openai.OpenAI(base_url=served.base_url, api_key=served.api_key, max_retries=0)
        answer = client.completions.create(model="written", prompt="hello")
        assert answer.choices[0].text == "hello"
        with Traffic(served, "written").running() as traffic, ThreadPoolExecutor(1) as pool:
            long = pool.submit(post, served, "/completions", {**short("written"), "max_tokens": LONG})
            written["spec"]["template"] = {"env": [{"name": "CHANGED", "value": "1"}]}
            served.apply(written)
            wait(served, "written", "Running")
            until(lambda: len(revisions(served, "written")) == 1, "the old one has left", served.patience)
            assert json.loads(long.result()[1])["id"] == answer.id, "the old one finishes what it began"
        traffic.assert_nothing_lost()
        served.delete("written")

    def test_engine_when_it_crashes_then_condition_quotes_its_log(self, served: World) -> None:
        """Clients do not get the last lines of its log. One stream has both: of two, the order of lines is not kept."""
        program = "import sys; print('\\x1b[32mloading', file=sys.stderr); sys.exit('there is no tokenizer')"
        served.apply(model(None, "crashing", runtime=python(served, "-c", program), scaling=SCALING))
        wait(served, "crashing", "Idle")
        status, answer = post(served, "/completions", short("crashing"))
        assert "its log ends: loading | there is no tokenizer" in wait(served, "crashing", "CrashLoop")["message"]
        until(
            lambda: post(served, "/completions", short("crashing"))[0] == 503,
            lambda: f"a request is told that it crashes; it was {status} {answer}",
            served.patience,
        )
        assert "tokenizer" not in post(served, "/completions", short("crashing"))[1]
        served.delete("crashing")

    def test_engine_when_readiness_path_wrong_then_condition_has_it(self, served: World) -> None:
        runtime = python(served, "-m", "http.server", "8000", "--bind", "$(HEADRACE_POD_IP)")
        runtime["container"]["readinessPath"] = "/nothing/here"
        served.apply(model(None, "unready", runtime=runtime, replicas=1))
        told = "its readiness path /nothing/here on port 8000 responds with status 404"
        until(lambda: told in wait(served, "unready", "Starting")["message"], "the condition says how", served.patience)
        served.delete("unready")


def python(world: World, *words: str) -> Manifest:
    """Return a runtime that is a Python program in a container that somebody brings."""
    return {
        "type": "Container",
        "container": {"image": world.engine_image, "command": ["python", *words]},
    }


def ours(world: World) -> Manifest:
    """Return our engine as a container that somebody brings."""
    return {
        "image": world.engine_image,
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
