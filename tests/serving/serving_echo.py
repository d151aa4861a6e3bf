"""A server of the real shell around an engine that says the prompt again, a character per step, for as long as asked.

Run as a process of its own (`EchoSettings.arguments`), because signals, exit codes and termination messages are what is
tested. Stands in for a model, which is not the shell's; the LLM server's tests use the real one.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from prometheus_client.core import Metric

from headrace.errors import InvalidModel
from headrace.events.messages import Load
from headrace.serving.engine import (
    Chat,
    Delta,
    EngineCounters,
    FinishReason,
    GenerationRequest,
    Progress,
    TextEngine,
)
from headrace.serving.errors import EngineDied, Saturated
from headrace.serving.lifecycle import Runtime, run
from headrace.serving.metrics import gauge
from headrace.serving.openai.endpoints import OpenAIEndpoints

MODEL = "echo"
MODEL_LEN = 4096
CAPACITY = 8
DIE = "die"
"""A prompt that kills the engine."""


class EchoEngine:
    """Tokens are bytes."""

    def __init__(self, step_seconds: float) -> None:
        self.capacity = CAPACITY
        self.counters = EngineCounters()
        self.healthy = True
        self.model_len = MODEL_LEN
        self.vocabulary = 256
        self.longest_token = 1
        self._step_seconds = step_seconds
        self._running = 0

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_chat(self, chat: Chat) -> list[int]:
        return self.encode("|".join(f"{message.role}:{message.content}" for message in chat.messages))

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        prompt, length = request.prompt_tokens, request.stop.max_tokens
        if self._running >= self.capacity:
            raise Saturated("the echo is full")
        if self.decode(list(prompt)).endswith(DIE):
            self.healthy = False
            raise EngineDied("the echo has died")
        self._running += 1
        self.counters.prompt_tokens += len(prompt)
        last = FinishReason.LENGTH
        try:
            for number, token in enumerate(islice(cycle(prompt), length), start=1):
                await asyncio.sleep(self._step_seconds)
                self.counters.steps += 1
                self.counters.generated_tokens += 1
                cursor = number if request.cursors else None
                yield Delta(chr(token), (token,), last if number == length else None, cursor)
            self.counters.finished += 1
        except (GeneratorExit, asyncio.CancelledError):
            self.counters.cancelled += 1
            raise
        finally:
            self._running -= 1

    def load(self) -> Load:
        return Load(running=self._running).with_extra({"echoes": self.counters.generated_tokens})

    def metrics(self, model: str) -> Iterable[Metric]:
        yield gauge(model, "echo_echoes", "Tokens that were said again.", self.counters.generated_tokens)

    async def close(self) -> None:
        self.healthy = False


@dataclass(frozen=True, slots=True)
class EchoSettings:
    port: int
    step_seconds: float = 0.0
    gate: Path | None = None
    """Loading waits until this file is there."""
    failure: str = ""
    """`invalid` or `unexpected`: how loading ends."""

    def arguments(self) -> list[str]:
        arguments = [sys.executable, __file__, f"--port={self.port}", f"--step-seconds={self.step_seconds}"]
        if self.gate is not None:
            arguments.append(f"--gate={self.gate}")
        return [*arguments, f"--failure={self.failure}"]

    def load(self, progress: Progress) -> TextEngine:
        progress("loading-weights", 41)
        while self.gate is not None and not self.gate.exists():
            time.sleep(0.01)
        if self.failure == "invalid":
            raise InvalidModel("the file is cut", hint="Fetch it again")
        if self.failure == "unexpected":
            raise ValueError("something\nelse")
        return EchoEngine(self.step_seconds)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--step-seconds", type=float, required=True)
    parser.add_argument("--gate", type=Path)
    parser.add_argument("--failure", required=True)
    settings = EchoSettings(**vars(parser.parse_args()))
    runtime: Runtime[TextEngine] = Runtime(
        model=MODEL,
        load=settings.load,
        handlers=lambda replica, metrics: OpenAIEndpoints(replica, MODEL, metrics).handlers(),
        on_ready=lambda: None,
    )
    return run(runtime, "127.0.0.1", settings.port)


if __name__ == "__main__":
    sys.exit(main())
