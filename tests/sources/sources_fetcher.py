"""Runs the real `headrace-fetch` as a process and reads what it leaves behind."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace import environment
from headrace.sources.location import location

DEADLINE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a fetch ended."""

    code: int
    said: dict[str, Any]
    output: str


@dataclass(slots=True)
class Running:
    """A fetch under way."""

    process: subprocess.Popen[str]
    message: Path

    def outcome(self) -> Outcome:
        output, _ = self.process.communicate(timeout=DEADLINE_SECONDS)
        text = self.message.read_text(encoding="utf-8") if self.message.exists() else ""
        return Outcome(self.process.returncode, json.loads(text) if text else {}, output)


@dataclass(slots=True)
class Fetcher:
    """Starts fetches into one model directory, as a pod of it would."""

    directory: Path
    scratch: Path
    environment: dict[str, str] = field(default_factory=dict)
    allow_loopback: bool = True
    started: list[Running] = field(default_factory=list)

    def start(
        self,
        uri: str,
        *,
        digest: str | None = None,
        expected: str | None = None,
        limit: Callable[[], None] | None = None,
    ) -> Running:
        command = [sys.executable, "-m", "headrace.sources.fetch", "--directory", str(self.directory)]
        command += ["--digest", digest] if digest else []
        command += ["--expect", expected] if expected else []
        command += ["--allow-loopback"] if self.allow_loopback else []
        message = self.scratch / f"message-{len(self.started)}"
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        variables = {**keep, environment.TERMINATION_MESSAGE_PATH: str(message), **self.environment}
        variables[environment.SOURCE_URI] = uri
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=variables,
            preexec_fn=limit,  # noqa: PLW1509 - a test's limit, before any thread
        )
        self.started.append(Running(process, message))
        return self.started[-1]

    def fetch(
        self,
        uri: str,
        *,
        digest: str | None = None,
        expected: str | None = None,
        limit: Callable[[], None] | None = None,
    ) -> Outcome:
        return self.start(uri, digest=digest, expected=expected, limit=limit).outcome()

    def target(self, uri: str, digest: str | None = None) -> Path:
        return self.directory / location(uri, digest)

    def part(self, uri: str, digest: str | None = None) -> Path:
        target = self.target(uri, digest)
        return target.with_name(target.name + ".part")

    def stop_all(self) -> None:
        for running in self.started:
            if running.process.poll() is None:
                running.process.kill()
            running.process.communicate()


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def until(true: Callable[[], bool]) -> None:
    """Wait until it is true."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
