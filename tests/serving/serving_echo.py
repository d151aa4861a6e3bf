"""A server of the real shell around an engine that says the prompt again, a byte per step, for as long as asked.

With tools it thinks and calls the first one (`serving_parser`); with a JSON schema it says the JSON in the prompt.

Run as a process of its own (`EchoSettings.arguments`), because signals, exit codes and termination messages are what is
tested. Stands in for a model, which is not the shell's; the LLM server's tests use the real one.
"""

from __future__ import annotations

import argparse
import asyncio
import codecs
import json
import math
import sys
import time
from array import array
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric
from serving.serving_parser import EchoParser

from headrace.errors import InvalidModel
from headrace.events.messages import Load
from headrace.serving.engine import (
    Chat,
    ChatMessage,
    Constraint,
    Delta,
    EngineCounters,
    FinishReason,
    GenerationRequest,
    Progress,
    TextEngine,
    TokenLogprob,
    ToolUse,
)
from headrace.serving.errors import EngineDied, InvalidRequest, ModelNotFound, Saturated, UnsupportedParameter
from headrace.serving.lifecycle import Runtime, run
from headrace.serving.metrics import gauge
from headrace.serving.text import text_handlers

MODEL = "echo"
MODEL_LEN = 4096
CAPACITY = 8
DIE = "die"
"""A prompt that kills the engine."""
END = "\x04"
"""The byte that ends an answer."""


def logprob(token: int, alternatives: int) -> TokenLogprob:
    """Return what the echo is sure of: a vowel is the most likely token, any other one comes after a space."""
    vowel, others = chr(token) in "aeiou", ((32, -1.0), (token, -2.0))
    ranked = ((token, -0.5), (32, -1.0), (10, -3.0)) if vowel else (*others, (10, -3.0))
    return TokenLogprob(token, -0.5 if vowel else -2.0, ranked[:alternatives])


def _said(message: ChatMessage) -> str:
    calls = "".join(f"<call>{call.id} {call.name} {call.arguments}</call>" for call in message.tool_calls)
    thought = f"<think>{message.reasoning}</think>" if message.reasoning else ""
    return f"{thought}{message.content}{calls}" + (f"@{message.tool_call_id}" if message.tool_call_id else "")


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
        self._adapters: dict[str, Path] = {}
        self._seen: set[tuple[int, ...]] = set()

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_chat(self, chat: Chat) -> list[int]:
        last = chat.messages[-1]
        if chat.tool_use is not None and last.role != "tool":
            arguments = json.dumps({"text": last.content})
            return self.encode(f"<think>so</think>ok<call>{chat.tool_use.tools[0].name} {arguments}</call>{END}")
        options = "".join(f"{name}={value}|" for name, value in chat.template_options.items())
        return self.encode(options + "|".join(f"{message.role}:{_said(message)}" for message in chat.messages))

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")

    def parser(self, chat: Chat) -> EchoParser | None:
        return None if chat.tool_use is None else EchoParser()

    def tool_constraint(self, tool_use: ToolUse, template_options: Mapping[str, Any]) -> Constraint | None:
        del template_options
        if any(tool.name == "broken" for tool in tool_use.tools):
            raise UnsupportedParameter("`tools` are not supported here", param="tools")
        return None

    async def embed(self, prompts: Sequence[tuple[int, ...]]) -> list[array[float]]:
        """Return the shares of the four quarters of the byte values, as a vector of length 1."""
        vectors = []
        for prompt in prompts:
            counts = [sum(token // 64 == quarter for token in prompt) for quarter in range(4)]
            length = math.hypot(*counts)
            vectors.append(array("f", [count / length for count in counts]))
        return vectors

    async def load_adapter(self, name: str, path: Path) -> None:
        if name in self._adapters:
            raise InvalidRequest(f"the adapter {name!r} is loaded already", param="name")
        if not path.is_dir():
            raise InvalidRequest(f"{path} is not a directory", param="path")
        self._adapters[name] = path

    async def unload_adapter(self, name: str) -> None:
        if self._adapters.pop(name, None) is None:
            raise ModelNotFound(f"the adapter {name!r} is not loaded", param="name")

    def adapters(self) -> tuple[str, ...]:
        return tuple(self._adapters)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        prompt = request.prompt_tokens
        if self._running >= self.capacity:
            raise Saturated("the echo is full")
        if self.decode(list(prompt)).endswith(DIE):
            self.healthy = False
            raise EngineDied("the echo has died")
        tokens = list(self._answer(request))
        self._running += 1
        self.counters.prompt_tokens += len(prompt)
        self.counters.prefix_queries += len(prompt)
        cached = len(prompt) // 4 * 4 if prompt in self._seen else 0
        self.counters.prefix_hits += cached
        self._seen.add(prompt)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        ended = ord(END) in prompt and not request.stop.ignore_eos
        last = FinishReason.STOP if ended or request.constraint is not None else FinishReason.LENGTH
        try:
            for number, token in enumerate(tokens, start=1):
                await asyncio.sleep(self._step_seconds)
                self.counters.steps += 1
                self.counters.generated_tokens += 1
                end = number == len(tokens)
                text = request.adapter + decoder.decode(bytes([token]), final=end)
                yield Delta(
                    "" if token == ord(END) else text,
                    (token,),
                    last if end else None,
                    number if request.cursors else None,
                    logprobs=() if request.logprobs is None else (logprob(token, request.logprobs),),
                    prompt_logprobs=self._prompt_logprobs(request) if number == 1 else (),
                    cached_tokens=cached if number == 1 else 0,
                )
            self.counters.finished += 1
        except (GeneratorExit, asyncio.CancelledError):
            self.counters.cancelled += 1
            raise
        finally:
            self._running -= 1

    def _answer(self, request: GenerationRequest) -> Iterable[int]:
        prompt = bytes(request.prompt_tokens)
        if request.constraint is not None:
            return prompt[prompt.find(b"{") : prompt.rfind(b"}") + 1]
        if ord(END) in prompt and not request.stop.ignore_eos:
            return prompt[: prompt.index(ord(END)) + 1][: request.stop.max_tokens]
        return islice(cycle(prompt), request.stop.max_tokens)

    def _prompt_logprobs(self, request: GenerationRequest) -> tuple[TokenLogprob | None, ...]:
        if request.prompt_logprobs is None:
            return ()
        return (None, *(logprob(token, request.prompt_logprobs) for token in request.prompt_tokens[1:]))

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
        handlers=lambda replica, metrics: text_handlers(replica, MODEL, metrics),
        on_ready=lambda: None,
    )
    return run(runtime, "127.0.0.1", settings.port)


if __name__ == "__main__":
    sys.exit(main())
