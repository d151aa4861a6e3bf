"""From a request's body to the engine and back: the one way on which all text endpoints generate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Protocol, TypeVar

from headrace import headers
from headrace.serving.engine import TextEngine
from headrace.serving.errors import ModelNotFound
from headrace.serving.exchange import Exchange
from headrace.serving.metrics import RequestTimes, RuntimeMetrics
from headrace.serving.openai.answers import token_text
from headrace.serving.openai.choices import Answer
from headrace.serving.openai.logprobs import TokenText
from headrace.serving.openai.plan import Plan
from headrace.serving.openai.requests import Body
from headrace.serving.openai.streams import merged
from headrace.serving.replica import Replica

_CURSORS = headers.CURSORS.encode()

AnyBody = TypeVar("AnyBody", bound=Body)
Serialization = Callable[[str, Plan, TokenText], Answer]
"""From the model's name, the plan and the texts of tokens to an answer that serializes itself."""


class PlannedBody(Protocol):
    """A body that generates text."""

    @property
    def model(self) -> str:
        """The name of the model or of an adapter."""

    def plan(self, engine: TextEngine, *, cursors: bool = False, adapter: str = "") -> Plan:
        """Return the engine's requests."""


async def read(exchange: Exchange, body: type[AnyBody]) -> AnyBody:
    """Return the request's body; ignored fields are named in the answer's header. Raises InvalidRequest."""
    made = body.read(await exchange.body())
    if made.ignored:
        exchange.warn(f"ignored unknown fields: {', '.join(made.ignored)}")
    return made


def adapter_of(name: str | None, engine: TextEngine, *, model: str) -> str:
    """Return the adapter that a request's model name selects; empty: the model itself. Raises ModelNotFound."""
    if name is None or name == model:
        return ""
    if name in engine.adapters():
        return name
    raise ModelNotFound(f"the model {name!r} is not served here", param="model", hint=f"Use {model!r}")


class Generation:
    """Runs requests for one served text model."""

    def __init__(self, replica: Replica[TextEngine], model: str, metrics: RuntimeMetrics) -> None:
        self._replica = replica
        self._model = model
        self._metrics = metrics
        self._text: TokenText | None = None

    async def serve(self, exchange: Exchange, body: PlannedBody, serialization: Serialization) -> None:
        """Generate, and answer the exchange: as a whole, or as a stream of events."""
        async with self._replica.work() as work, exchange.watching(work):
            engine = work.engine
            adapter = adapter_of(body.model, engine, model=self._model)
            cursors = exchange.headers.get(_CURSORS) == b"true"
            plan = await asyncio.to_thread(body.plan, engine, cursors=cursors, adapter=adapter)
            if self._text is None:
                self._text = token_text(engine.decode)
            answer = serialization(body.model, plan, self._text)
            times = RequestTimes(self._metrics, lambda: exchange.seconds)
            try:
                await self._run(exchange, engine, answer, times)
            finally:
                prompt, completion = answer.prompt_tokens, answer.completion_tokens
                times.ended(answer.finish_reasons, prompt_tokens=prompt, generation_tokens=completion)
                exchange.notes.update(prompt_tokens=prompt, completion_tokens=completion)
                if answer.finish_reasons:
                    exchange.notes["finish"] = ",".join(answer.finish_reasons)

    @staticmethod
    async def _run(exchange: Exchange, engine: TextEngine, answer: Answer, times: RequestTimes) -> None:
        answers = [engine.generate(request) for request in answer.plan.requests]
        async with aclosing(merged(answers)) as steps:
            # Nothing is sent before the first step: a rejection by the engine is an error with a status, and the
            # gateway can retry the request.
            step = await anext(steps)
            times.step(step.index)
            if answer.plan.stream:
                await exchange.start_stream()
                events = answer.open() + answer.chunk(step)
                while not answer.complete:
                    if events:
                        await exchange.write(events)
                    step = await anext(steps)
                    times.step(step.index)
                    events = answer.chunk(step)
                await exchange.finish(events + answer.close())
            else:
                answer.add(step)
                while not answer.complete:
                    step = await anext(steps)
                    times.step(step.index)
                    answer.add(step)
                await answer.respond(exchange)
