"""Bench of cold starts by what outlives replicas: from a request to a model at zero until its first token.

One instance has each file as three models, of `keep: Nothing`, `Weights` and `Process`; their cold starts alternate,
and the best of each counts, because cores are shared. Files are in the page cache. Beside them in the same run: a fresh
process of llama.cpp's server with the same file, and of a server on transformers with the same model (SmolLM2 only),
from the start of the process to the first token.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from bars import Bar, spread
from engines.venvs import LLAMA_CPP, VLLM, python_of
from llm_parts.setting import Setting
from random_model import random_model

from headrace.local.home import InstanceHome

BIN = Path(sys.executable).parent
ROUNDS = 8
PEER_ROUNDS = 3
KEEPS = ("Nothing", "Weights", "Process")
PROMPT = "The"
DEADLINE_SECONDS = 120.0
POLL_SECONDS = 0.02
IMPORT_SECONDS = 1.5
"""Time for the warm process to load its libraries after it was started."""


def free_port() -> int:
    """Return a free port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def first_token(port: int, model: str) -> float:
    """Return the seconds from a request until the first token. Raises OSError if nothing listens."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": 1, "temperature": 0, "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
    began = time.monotonic()
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    for line in response:
        if line.startswith(b"data:") and b'"text"' in line:
            connection.close()
            return time.monotonic() - began
    raise AssertionError(f"status {response.status}: no token")


class Instance:
    """An instance of local mode with a model of each `keep`."""

    def __init__(self, home: Path, file: Path) -> None:
        self._home = InstanceHome.of("default", home)
        self._environment = {**os.environ, "HEADRACE_HOME": str(home)}
        self.port = free_port()
        manifests = home / "models.yaml"
        manifests.write_text(yaml.safe_dump_all([_manifest(keep, file) for keep in KEEPS]))
        command = [str(BIN / "headrace"), "up", "-f", str(manifests), "--port", str(self.port)]
        with (home / "bench.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)

    def stop(self) -> None:
        """Stop it."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=DEADLINE_SECONDS)

    def settle(self) -> None:
        """Wait until every model is at zero, one warm process waits, and the node agent can be used."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (self._at_zero() and self._commands() == ["standby"] and self._agent()):
            assert time.monotonic() < deadline, self._commands()
            time.sleep(POLL_SECONDS)
        time.sleep(IMPORT_SECONDS)

    def stages(self, keep: str) -> dict[str, int]:
        """Return the stages of the last cold start."""
        found = self._get(f"mdep/{keep.lower()}")["status"]["lastColdStart"]["stages"]
        return {stage["name"]: stage["milliseconds"] for stage in found}

    def _agent(self) -> bool:
        return (self._home.node / "volumes/default/agent.sock").exists()

    def _at_zero(self) -> bool:
        resources = self._get("mdep").get("items", []) if self._home.socket.exists() else []
        statuses = [resource.get("status", {}) for resource in resources]
        return len(statuses) == len(KEEPS) and all(
            any(each["type"] == "Ready" and each["reason"] == "Idle" for each in status.get("conditions", []))
            for status in statuses
        )

    def _commands(self) -> list[str]:
        """Return the commands with which the runtime's processes were started."""
        pid, found = self._process.pid, []
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            found += [words[i + 1].decode() for i, word in enumerate(words) if word.endswith(b"/headrace-llm")]
        return found

    def _get(self, what: str) -> dict[str, Any]:
        command = [str(BIN / "headrace"), "get", what, "-o", "json"]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return found


def _manifest(keep: str, file: Path) -> dict[str, Any]:
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": keep.lower()},
        "spec": {
            "model": {"source": {"uri": f"file://{file}"}},
            "runtime": {"llm": {"maxModelLen": 512, "maxConcurrentRequests": 1}},
            "scaling": {"idleTimeoutSeconds": 1, "coldStart": {"keep": keep}},
        },
    }


def ours(file: Path, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of cold starts by `keep`."""
    measured: dict[str, list[float]] = {keep: [] for keep in KEEPS}
    with tempfile.TemporaryDirectory(prefix="hr") as directory:
        instance = Instance(Path(directory), file)
        try:
            for number in range(rounds + 1):
                for keep in KEEPS:
                    instance.settle()
                    seconds = first_token(instance.port, keep.lower())
                    if number:  # the first one stores the weights
                        measured[keep].append(seconds)
            instance.settle()
            for keep in KEEPS:
                print(f"  stages of the last cold start, keep {keep}: {instance.stages(keep)}")
        finally:
            instance.stop()
    return measured


@contextmanager
def peer_process(command: list[str]) -> Iterator[float]:
    """Run a process; yields the time of its start."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield began
    finally:
        process.kill()
        process.wait()


def llama_cpp(file: Path) -> float:
    """Return the seconds from the start of llama.cpp's server to its first token."""
    port = free_port()
    command = [str(python_of(LLAMA_CPP)), "-m", "llama_cpp.server", "--model", str(file), "--port", str(port)]
    with peer_process(command) as began:
        _retried(lambda: first_token(port, "any"))
        return time.monotonic() - began


def transformers(directory: Path) -> float:
    """Return the seconds from the start of a server on transformers to its first token."""
    port = free_port()
    worker = Path(__file__).parents[1] / "workers/serve_transformers.py"

    def post() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
        connection.request("POST", "/", PROMPT)
        connection.getresponse().read()

    with peer_process([str(python_of(VLLM)), str(worker), str(directory), str(port)]) as began:
        _retried(post)
        return time.monotonic() - began


def _retried(request: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            request()
        except OSError:
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(POLL_SECONDS)
        else:
            return


def measure(setting: Setting) -> list[Bar]:
    """Return the bars."""
    best: dict[tuple[str, str], float] = {}
    for name, file in (("smollm2", setting.file), ("1b", random_model(setting.file))):
        file.read_bytes()  # into the page cache
        measured = ours(file, ROUNDS)
        measured["llama.cpp's server, new process"] = [llama_cpp(file) for _ in range(PEER_ROUNDS)]
        if name == "smollm2":
            fresh = [transformers(setting.directory) for _ in range(PEER_ROUNDS)]
            measured["transformers, new process"] = fresh
        for what, seconds in measured.items():
            spread(f"{name}: request at zero to first token, {what}", seconds, "s")
            best[name, what] = min(seconds)
        print(f"  medians: { ({what: round(statistics.median(each), 3) for what, each in measured.items()}) }")
    process = best["smollm2", "Process"] / best["smollm2", "Nothing"]
    weights = best["1b", "Weights"] / best["1b", "Nothing"]
    return [
        Bar("cold-start-process-over-nothing-smollm2", process, 0.4, "x"),
        Bar("cold-start-weights-over-nothing-1b", weights, 0.5, "x"),
    ]
