"""`scaling.coldStart.keep` in a real instance with a real model: what the second cold start finds."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from local.local_instance import Up, until

from headrace.agent.admin import SOCKET_NAME, AdminClient
from headrace.agent.errors import AgentError
from headrace.kinds.modeldeployment import MODEL_DEPLOYMENT
from headrace.local.leftovers import LIFE_VARIABLE

SECONDS = 60.0


def keeping_model(file: Path, keep: str) -> dict[str, Any]:
    """Return a resource that scales to zero after a second."""
    scaling = {"idleTimeoutSeconds": 1, "coldStart": {"keep": keep}}
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "smol"},
        "spec": {
            "model": {"source": {"uri": f"file://{file}"}},
            "runtime": {"llm": {"maxModelLen": 512, "maxConcurrentRequests": 4}},
            "scaling": scaling,
        },
    }


def started(start: Callable[..., Up], root: Path, manifest: dict[str, Any]) -> Up:
    """Return an instance with the model at zero and a node agent that is ready."""
    path = root / "keeping.yaml"
    path.write_text(yaml.safe_dump(manifest))
    up = start("-f", str(path)).wait_until_up()
    until((up.home.node / "volumes/default/agent.sock").exists, "the node agent is ready", SECONDS)
    until(lambda: at_zero(up), "the model is at zero", SECONDS)
    return up


def status(up: Up) -> dict[str, Any]:
    found: dict[str, Any] = up.client.get(MODEL_DEPLOYMENT.kind, "default", "smol").get("status", {})
    return found


def at_zero(up: Up) -> bool:
    """Whether a request would start the model."""
    ready: dict[str, Any] = next((each for each in status(up).get("conditions", []) if each["type"] == "Ready"), {})
    return ready.get("reason") == "Idle" and "serve" not in runtimes(up).values()


def runtimes(up: Up) -> dict[int, str]:
    """Return the runtime's processes of this life, with the command that they were started with."""
    mark = f"{LIFE_VARIABLE}={json.loads(up.home.life.read_text())['id']}".encode()
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            at = next((index for index, word in enumerate(words) if word.endswith(b"/headrace-llm")), None)
            if at is not None and mark in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = words[at + 1].decode()
    return found


def ended(up: Up, pid: int) -> bool:
    return pid not in runtimes(up)


def ask(up: Up) -> str:
    """Return an answer of the model, which starts if it is at zero."""
    question = {"role": "user", "content": "What is the capital of France?"}
    body = {"model": "smol", "messages": [question], "temperature": 0, "max_tokens": 8}
    request = urllib.request.Request(
        f"{up.endpoint}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=SECONDS) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


def cold_start(up: Up) -> tuple[str, list[str]]:
    """Wake the model, wait until it is at zero again, and return the answer and the stages."""
    before = status(up).get("lastColdStart")
    answer = ask(up)
    until(lambda: status(up).get("lastColdStart") != before, "the cold start is in the status", SECONDS)
    until(lambda: at_zero(up), "the model is at zero", SECONDS)
    return answer, [stage["name"] for stage in status(up)["lastColdStart"]["stages"]]


def stored(up: Up) -> int:
    """Return how many objects the node has, -1 while the agent restarts."""
    try:
        return len(list(AdminClient(up.home.node / SOCKET_NAME).objects()))
    except AgentError:
        return -1


def test_weights_when_model_was_at_zero_then_mapped(start: Callable[..., Up], root: Path, smollm2_path: Path) -> None:
    up = started(start, root, keeping_model(smollm2_path, "Weights"))
    assert status(up)["keep"] == "Weights"
    answer, first = cold_start(up)
    again, second = cold_start(up)
    assert answer == again
    assert "storing-weights" in first
    assert "mapping-weights" in second
    assert stored(up) == 1


def test_process_when_model_starts_then_a_warm_one_serves(
    start: Callable[..., Up], root: Path, smollm2_path: Path
) -> None:
    """Of two cold starts, each is served by a process that waited before, and none is started with the model."""
    up = started(start, root, keeping_model(smollm2_path, "Process"))
    assert status(up)["keep"] == "Process"
    answers, served = set(), set()
    for _ in range(2):
        (warm,) = until(lambda: runtimes(up), "a process waits", SECONDS)
        answers.add(ask(up))
        assert set(runtimes(up).values()) == {"standby"}
        until(partial(ended, up, warm), "the process ended with the replica", SECONDS)
        until(lambda: at_zero(up), "the model is at zero", SECONDS)
        served.add(warm)
    assert (len(answers), len(served)) == (1, 2)
    up.client.delete(MODEL_DEPLOYMENT.kind, "default", "smol")
    until(lambda: not runtimes(up), "no process waits for a model that is gone", SECONDS)
