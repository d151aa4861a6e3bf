"""The endpoints of one served text model."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from headrace import headers
from headrace.serving.engine import TextEngine
from headrace.serving.errors import ModelNotFound
from headrace.serving.exchange import Exchange, Handlers
from headrace.serving.metrics import RuntimeMetrics
from headrace.serving.openai.answers import CHAT, TEXT, Answer, Shape
from headrace.serving.openai.requests import (
    Body,
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    GenerationBody,
    TokenizeBody,
    checked_tokens,
)
from headrace.serving.openai.streams import merged
from headrace.serving.replica import Replica

_CURSORS = headers.CURSORS.encode()


class OpenAIEndpoints:
    """OpenAI's endpoints, and vLLM's two for tokens, over a replica's text engine."""

    def __init__(self, replica: Replica[TextEngine], model: str, metrics: RuntimeMetrics) -> None:
        self._replica = replica
        self._model = model
        self._metrics = metrics

    def handlers(self) -> Handlers:
        """Return the handlers by method and path."""
        return {
            ("GET", "/v1/models"): self._models,
            ("GET", f"/v1/models/{self._model}"): self._one_model,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._completions,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
        }

    async def _models(self, exchange: Exchange) -> None:
        async with self._replica.work() as work:
            await exchange.respond({"object": "list", "data": [self._card(work.engine)]})

    async def _one_model(self, exchange: Exchange) -> None:
        async with self._replica.work() as work:
            await exchange.respond(self._card(work.engine))

    async def _chat(self, exchange: Exchange) -> None:
        await self._generate(exchange, ChatBody.read(await exchange.body()), CHAT)

    async def _completions(self, exchange: Exchange) -> None:
        await self._generate(exchange, CompletionBody.read(await exchange.body()), TEXT)

    async def _tokenize(self, exchange: Exchange) -> None:
        body = TokenizeBody.read(await exchange.body())
        self._check_model(body)
        async with self._replica.work() as work:
            tokens = await asyncio.to_thread(body.tokens, work.engine)
            await exchange.respond({"count": len(tokens), "max_model_len": work.engine.model_len, "tokens": tokens})

    async def _detokenize(self, exchange: Exchange) -> None:
        body = DetokenizeBody.read(await exchange.body())
        self._check_model(body)
        async with self._replica.work() as work:
            tokens = checked_tokens(body.tokens, work.engine, param="tokens")
            await exchange.respond({"prompt": await asyncio.to_thread(work.engine.decode, tokens)})

    async def _generate(self, exchange: Exchange, body: GenerationBody, shape: Shape) -> None:
        self._check_model(body)
        async with self._replica.work() as work, exchange.watching(work):
            requests = await asyncio.to_thread(body.requests, work.engine)
            cursors = exchange.headers.get(_CURSORS) == b"true"
            answer = Answer(shape, self._model, requests, body.stream_options, cursors=cursors)
            answers = [work.engine.generate(request) for request in requests]
            try:
                async with aclosing(merged(answers)) as steps:
                    # Nothing is sent before the first step: a rejection by the engine is an error with a status, and
                    # the gateway can retry the request.
                    step = await anext(steps)
                    self._metrics.first_token(exchange.seconds)
                    if body.stream:
                        await exchange.start_stream()
                        events = answer.open() + answer.chunk(step)
                        while not answer.complete:
                            if events:
                                await exchange.write(events)
                            events = answer.chunk(await anext(steps))
                        await exchange.finish(events + answer.close())
                    else:
                        answer.add(step)
                        while not answer.complete:
                            answer.add(await anext(steps))
                        await exchange.respond(answer.whole())
            finally:
                self._metrics.ended(exchange.seconds, answer.finish_reasons)
                exchange.notes.update(prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens)
                if answer.finish_reasons:
                    exchange.notes["finish"] = ",".join(answer.finish_reasons)

    def _check_model(self, body: Body) -> None:
        if body.model is not None and body.model != self._model:
            raise ModelNotFound(
                f"the model {body.model!r} is not served here", param="model", hint=f"Use {self._model!r}"
            )

    def _card(self, engine: TextEngine) -> dict[str, object]:
        return {
            "id": self._model,
            "object": "model",
            "created": int(self._replica.started),
            "owned_by": "headrace",
            "max_model_len": engine.model_len,
        }
