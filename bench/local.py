"""Bench of local mode: start of an instance, cold start of a model, duration of commands.

The baseline of a cold start is a process that imports torch, and beside it a process that answers with llama-cpp-python
(when `make bench-llm` has installed it); the three alternate. A cold start is measured from outside: the request is
sent, the supervisor's children are polled until the runtime's process exists, and the stream is read until its first
token. All times are from the machine's monotonic clock.
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
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from bars import bar, environment, percentile, spread
from engines.contender import WORKERS
from engines.venvs import LLAMA_CPP, installed_python
from typing_extensions import override

BIN = Path(sys.executable).parent
with socket.create_server(("127.0.0.1", 0)) as _free:
    PORT: int = _free.getsockname()[1]
ROOT = Path(__file__).parent.parent
WAKES = 20
STARTS = 10
COMMANDS = 20
QUESTION = "Which city is the capital of France?"
IDLE_SECONDS = 1
DEADLINE_SECONDS = 60.0


class BenchInstance:
    """A process of `headrace up`."""

    def __init__(self, home: Path, file: Path) -> None:
        self._home = home
        self._environment = {
            **os.environ,
            "HEADRACE_HOME": str(home),
            "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        }
        self._command = [str(BIN / "headrace"), "up", "-f", str(file), "--port", str(PORT)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start the instance; return the seconds until `/v1/models` lists the model."""
        began = time.monotonic()
        with (self._home / "bench.log").open("ab") as log:
            self.process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)
        while not self._lists_model():
            assert time.monotonic() - began < DEADLINE_SECONDS, (self._home / "bench.log").read_text()
            time.sleep(0.005)
        return time.monotonic() - began

    def stop(self) -> None:
        """Stop the instance."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=DEADLINE_SECONDS)

    def get(self, *words: str) -> str:
        """Run `headrace get`."""
        command = [str(BIN / "headrace"), "get", *words]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, check=True).stdout

    def runtime_pid(self) -> int | None:
        """Return the id of the runtime's process, if it runs."""
        assert self.process is not None
        pid = self.process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            try:
                if b"headrace-llm" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
            except OSError:
                continue
        return None

    def children(self) -> set[str]:
        """Return the ids of the supervisor's children."""
        assert self.process is not None
        pid = self.process.pid
        return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    def resource(self) -> dict[str, Any]:
        """Return the resource."""
        found: dict[str, Any] = json.loads(self.get("mdep", "smollm2", "-o", "json"))
        return found

    def wait_idle(self) -> None:
        """Wait until the model is scaled to zero (Idle) and its process has exited."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.runtime_pid() is not None or not self._is_idle():
            assert time.monotonic() < deadline, "the model does not scale to zero"
            time.sleep(0.05)

    def _is_idle(self) -> bool:
        conditions = self.resource().get("status", {}).get("conditions", [])
        return any(c["type"] == "Ready" and c["reason"] == "Idle" for c in conditions)

    @staticmethod
    def _lists_model() -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
            connection.request("GET", "/v1/models")
            return "smollm2-135m-instruct" in connection.getresponse().read().decode()
        except OSError:
            return False


class Wake(threading.Thread):
    """A streamed request to a model at zero replicas, with the times of the request and of the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = self.first_token = 0.0
        self.stages: dict[str, float] = {}
        """Milliseconds from the request to the first comment with each stage."""

    @override
    def run(self) -> None:
        """Send the request and read the stream to its first token."""
        question = {"role": "user", "content": QUESTION}
        body = {
            "model": "smollm2-135m-instruct",
            "messages": [question],
            "max_tokens": 1,
            "stream": True,
            "temperature": 0,
        }
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=DEADLINE_SECONDS)
        connection.connect()
        self.sent = time.monotonic()
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        for line in connection.getresponse():
            now = time.monotonic()
            if line.startswith(b": headrace"):
                stage = line.decode().strip().partition("stage=")[2].partition(" ")[0]
                self.stages.setdefault(stage, (now - self.sent) * 1000)
            elif b'"content"' in line and b'"content":""' not in line.replace(b": ", b":"):
                self.first_token = now
                break
        connection.close()


def torch_import() -> float:
    """Return the seconds of a Python process that imports torch and exits."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.monotonic() - began


def llama_cpp_start(file: Path) -> float | None:
    """Return the seconds of a llama-cpp-python process to its first token; None: it is not installed."""
    python = installed_python(LLAMA_CPP)
    if python is None:
        return None
    threads = str(len(os.sched_getaffinity(0)))
    command = [str(python), str(WORKERS / "start_llama_cpp.py"), str(file), threads, QUESTION]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        token = process.stdout.readline()
        seconds = time.monotonic() - began
    assert token, "llama-cpp-python ended without a token"
    return seconds


@dataclass(slots=True)
class ColdStarts:
    """Times of alternated starts: seconds, unless said otherwise."""

    process: list[float] = field(default_factory=list)
    """Request to a model at zero, to the runtime's process."""
    first_token: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    torch: list[float] = field(default_factory=list)
    """A process that imports torch."""
    llama_cpp: list[float] = field(default_factory=list)
    """A process of llama-cpp-python to its first token; empty: not installed."""
    stages: dict[str, list[float]] = field(default_factory=dict)
    """Request to the first report of each stage: milliseconds."""

    def add_wake(self, instance: BenchInstance) -> None:
        """Measure one request to the idle model, and one to the running model."""
        before = instance.children()
        wake = Wake()
        wake.start()
        while not (instance.children() - before):
            time.sleep(0.0003)
        seen = time.monotonic()
        wake.join()
        assert wake.first_token, "the stream ended without a token"
        self.process.append(seen - wake.sent)
        self.first_token.append(wake.first_token - wake.sent)
        again = Wake()
        again.start()
        again.join()
        self.warm.append(again.first_token - again.sent)
        for stage, elapsed in wake.stages.items():
            self.stages.setdefault(stage, []).append(elapsed)

    def add_peers(self, file: Path) -> None:
        """Measure the processes beside it."""
        self.torch.append(torch_import())
        seconds = llama_cpp_start(file)
        if seconds is not None:
            self.llama_cpp.append(seconds)

    def report(self) -> None:
        """Print the distributions and the bars."""
        for stage, milliseconds in self.stages.items():
            spread(f"request at zero to the stage {stage}", milliseconds, "ms")
        spread("request to first token, warm", self.warm, "s")
        spread("import torch (baseline)", self.torch, "s")
        spread("request at zero to first token", self.first_token, "s")
        baseline = statistics.median(self.torch)
        if self.llama_cpp:
            spread("llama-cpp-python, process to first token", self.llama_cpp, "s")
            print(f"llama-cpp-python of the import of torch: {statistics.median(self.llama_cpp) / baseline:.2f}x")
        to_process = [seconds * 1000 for seconds in self.process]
        spread("request at zero to process", to_process, "ms")
        bar("cold-start-of-torch-import", statistics.median(self.first_token) / baseline, 0.5, "x")
        bar("wake-to-spawn-p50", statistics.median(to_process), 15, "ms")
        bar("wake-to-spawn-p95", percentile(to_process, 95), 40, "ms")


def main() -> None:
    """Measure and print."""
    environment()
    with tempfile.TemporaryDirectory(prefix="hr") as directory:
        home = Path(directory)
        manifest = yaml.safe_load((ROOT / "examples/smollm2.yaml").read_text())
        manifest["spec"]["scaling"]["idleTimeoutSeconds"] = IDLE_SECONDS
        file = home / "model.yaml"
        file.write_text(yaml.safe_dump(manifest))
        instance = BenchInstance(home, file)
        instance.start()
        began = time.monotonic()
        instance.wait_idle()
        print(f"model fetched and scaled to zero {time.monotonic() - began:.1f} s after the start; measuring")
        commands = []
        for _ in range(COMMANDS):
            began = time.monotonic()
            instance.get("mdep")
            commands.append(time.monotonic() - began)
        model = next(home.rglob("*.gguf"))
        cold_starts = ColdStarts()
        for _ in range(WAKES):
            cold_starts.add_peers(model)
            instance.wait_idle()
            cold_starts.add_wake(instance)
        instance.stop()
        starts = []
        for _ in range(STARTS):
            starts.append(instance.start())
            instance.stop()
    spread("headrace up to /v1/models", starts, "s")
    spread("headrace get", commands, "s")
    cold_starts.report()
    bar("up-to-models", statistics.median(starts), 3.0, "s")
    bar("get", statistics.median(commands), 0.3, "s")


if __name__ == "__main__":
    main()
