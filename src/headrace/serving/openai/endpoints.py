"""The endpoints of one served text model."""

from __future__ import annotations

import asyncio

from headrace.http.paths import LiteralPath
from headrace.serving.engine import TextEngine
from headrace.serving.errors import ModelNotFound
from headrace.serving.exchange import Exchange, Handlers
from headrace.serving.metrics import RuntimeMetrics
from headrace.serving.openai.adapters import AdapterEndpoints
from headrace.serving.openai.answers import ChatAnswer, TextAnswer
from headrace.serving.openai.chats import ChatBody
from headrace.serving.openai.completions import CompletionBody
from headrace.serving.openai.embeddings import EmbeddingBody, embedding_answer
from headrace.serving.openai.generation import Generation, adapter_of, read
from headrace.serving.openai.requests import checked_tokens, unsupported
from headrace.serving.openai.response_answers import ResponseAnswer
from headrace.serving.openai.responses import ResponseBody
from headrace.serving.openai.tokens import DetokenizeBody, TokenizeBody
from headrace.serving.replica import Replica


class OpenAIEndpoints:
    """OpenAI's endpoints, and vLLM's two for tokens, over a replica's text engine."""

    def __init__(self, replica: Replica[TextEngine], model: str, metrics: RuntimeMetrics) -> None:
        self._replica = replica
        self._model = model
        self._generation = Generation(replica, model, metrics)

    def handlers(self) -> Handlers:
        """Return the handlers by method and path."""
        return {
            ("GET", "/v1/models"): self._models,
            ("GET", LiteralPath(f"/v1/models/{self._model}")): self._one_model,
            ("GET", "/v1/models/{name}"): self._one_model,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._completions,
            ("POST", "/v1/responses"): self._responses,
            ("POST", "/v1/embeddings"): self._embeddings,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            **AdapterEndpoints(self._replica, self._model).handlers(),
        }

    async def _models(self, exchange: Exchange) -> None:
        async with self._replica.work() as work:
            names = (self._model, *work.engine.adapters())
            await exchange.respond({"object": "list", "data": [self._card(name, work.engine) for name in names]})

    async def _one_model(self, exchange: Exchange) -> None:
        name = exchange.parameters.get("name", self._model)
        async with self._replica.work() as work:
            if name != self._model and name not in work.engine.adapters():
                raise ModelNotFound(f"the model {name[:256]!r} is not served here", hint=f"Use {self._model!r}")
            await exchange.respond(self._card(name, work.engine))

    async def _chat(self, exchange: Exchange) -> None:
        await self._generation.serve(exchange, await read(exchange, ChatBody), ChatAnswer)

    async def _completions(self, exchange: Exchange) -> None:
        await self._generation.serve(exchange, await read(exchange, CompletionBody), TextAnswer)

    async def _responses(self, exchange: Exchange) -> None:
        body = await read(exchange, ResponseBody)
        await self._generation.serve(exchange, body, lambda _model, plan, _text: ResponseAnswer(body, plan))

    async def _embeddings(self, exchange: Exchange) -> None:
        body = await read(exchange, EmbeddingBody)
        async with self._replica.work() as work, exchange.watching(work):
            if adapter_of(body.model, work.engine, model=self._model):
                raise unsupported("model", f"Embeddings are the model's own: use {self._model!r}")
            prompts = await asyncio.to_thread(body.prompts, work.engine)
            vectors = await work.engine.embed([tuple(prompt.tokens) for prompt in prompts])
            exchange.notes["prompt_tokens"] = sum(len(prompt.tokens) for prompt in prompts)
            answer = await asyncio.to_thread(embedding_answer, body, prompts, vectors)
            await exchange.respond_text(200, answer, b"application/json")

    async def _tokenize(self, exchange: Exchange) -> None:
        body = await read(exchange, TokenizeBody)
        async with self._replica.work() as work:
            engine = work.engine
            adapter_of(body.model, engine, model=self._model)
            tokens = await asyncio.to_thread(body.tokens, engine)
            answer: dict[str, object] = {"count": len(tokens), "max_model_len": engine.model_len, "tokens": tokens}
            if body.return_token_strs:
                answer["token_strs"] = await asyncio.to_thread(lambda: [engine.decode([token]) for token in tokens])
            await exchange.respond(answer)

    async def _detokenize(self, exchange: Exchange) -> None:
        body = await read(exchange, DetokenizeBody)
        async with self._replica.work() as work:
            adapter_of(body.model, work.engine, model=self._model)
            tokens = checked_tokens(body.tokens, work.engine, param="tokens")
            await exchange.respond({"prompt": await asyncio.to_thread(work.engine.decode, tokens)})

    def _card(self, name: str, engine: TextEngine) -> dict[str, object]:
        """Return a model in OpenAI's shape; an adapter names its model as `parent`, as in vLLM."""
        card = {
            "id": name,
            "object": "model",
            "created": int(self._replica.started),
            "owned_by": "headrace",
            "max_model_len": engine.model_len,
        }
        return card if name == self._model else {**card, "parent": self._model}
