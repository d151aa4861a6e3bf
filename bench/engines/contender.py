"""The contenders of a run: one process each, stopped while another one is measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

WORKERS = Path(__file__).parents[1] / "workers"


class Contender:
    """A worker process (see `bench/workers`). Entering loads the model, which takes vLLM a minute and a half."""

    def __init__(self, name: str, command: Sequence[str | Path]) -> None:
        self.name = name
        self.resident = 0
        """Memory after loading, bytes."""
        self.load_seconds = 0.0
        self._command = command

    def __enter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self._process = subprocess.Popen(  # stopped in __exit__
            [str(part) for part in self._command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=WORKERS,
            env=environment,
        )
        loaded = self._read()
        self.load_seconds, self.resident = loaded["loaded"], loaded["resident"]
        self._process.send_signal(signal.SIGSTOP)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def decode(self, streams: int, *, steps: int, exclusive: bool) -> list[float]:
        """Return the seconds of each step."""
        return self._ask({"measure": "decode", "streams": streams, "steps": steps, "exclusive": exclusive})

    def prefill(self, tokens: int, *, exclusive: bool) -> float:
        """Return the seconds of one prompt."""
        return self._ask({"measure": "prefill", "tokens": tokens, "exclusive": exclusive})[0]

    def _ask(self, request: dict[str, object]) -> list[float]:
        """Let the process run for one measurement: idle threads of another library may spin."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        seconds: list[float] = self._read()["seconds"]
        self._process.send_signal(signal.SIGSTOP)
        return seconds

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with status {self._process.wait()}: run {self._command} by hand")
        return json.loads(line)
