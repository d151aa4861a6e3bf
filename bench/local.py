"""Bench of local mode: start of an instance, cold start of a model, duration of commands.

The baseline is `import torch` in the same run. A cold start is measured from outside: the request is sent, the
supervisor's children are polled until the runtime's process exists, and the stream is read until its first token. All
times are from the machine's monotonic clock.
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
from pathlib import Path
from typing import Any

import yaml
from bars import bar, environment, percentile, spread
from typing_extensions import override

BIN = Path(sys.executable).parent
with socket.create_server(("127.0.0.1", 0)) as _free:
    PORT: int = _free.getsockname()[1]
ROOT = Path(__file__).parent.parent
WAKES = 20
TORCH_IMPORTS = 5
"""Number before the cold starts, and again after them."""
STARTS = 10
COMMANDS = 20
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
        question = {"role": "user", "content": "What is the capital of France?"}
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


def wakes(instance: BenchInstance) -> tuple[list[float], list[float]]:
    """Return the seconds to the process and to the first token of each cold start; print stages and warm requests."""
    spawned, first, warm = [], [], []
    stages: dict[str, list[float]] = {}
    for _ in range(WAKES):
        instance.wait_idle()
        before = instance.children()
        wake = Wake()
        wake.start()
        while not (instance.children() - before):
            time.sleep(0.0003)
        seen = time.monotonic()
        wake.join()
        assert wake.first_token, "the stream ended without a token"
        spawned.append(seen - wake.sent)
        first.append(wake.first_token - wake.sent)
        again = Wake()
        again.start()
        again.join()
        warm.append(again.first_token - again.sent)
        for stage, elapsed in wake.stages.items():
            stages.setdefault(stage, []).append(elapsed)
    for stage, milliseconds in stages.items():
        spread(f"request at zero to the stage {stage}", milliseconds, "ms")
    spread("request to first token, warm", warm, "s")
    return spawned, first


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
        torch_seconds = [torch_import() for _ in range(TORCH_IMPORTS)]
        spawned, first = wakes(instance)
        torch_seconds += [torch_import() for _ in range(TORCH_IMPORTS)]
        instance.stop()
        starts = []
        for _ in range(STARTS):
            starts.append(instance.start())
            instance.stop()
    spread("import torch (baseline)", torch_seconds, "s")
    spread("request at zero to first token", first, "s")
    milliseconds = [seconds * 1000 for seconds in spawned]
    spread("request at zero to process", milliseconds, "ms")
    spread("headrace up to /v1/models", starts, "s")
    spread("headrace get", commands, "s")
    bar("cold-start-over-torch", statistics.median(first) - statistics.median(torch_seconds), 2.0, "s")
    bar("wake-to-spawn-p50", statistics.median(milliseconds), 15, "ms")
    bar("wake-to-spawn-p95", percentile(milliseconds, 95), 40, "ms")
    bar("up-to-models", statistics.median(starts), 3.0, "s")
    bar("get", statistics.median(commands), 0.3, "s")


if __name__ == "__main__":
    main()
