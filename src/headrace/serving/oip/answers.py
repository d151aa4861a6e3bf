"""Answers of the Open Inference Protocol: text, as a tensor, an object or a stream of objects."""

from __future__ import annotations

import json
from typing import Any

from typing_extensions import override

from headrace.serving.exchange import Exchange
from headrace.serving.oip.tensors import HEADER_LENGTH, OUTPUT, InferRequest, written
from headrace.serving.openai.choices import Answer
from headrace.serving.openai.plan import Plan
from headrace.serving.openai.streams import Step


class GenerateAnswer(Answer):
    """The answer of `generate`, or the events of `generate_stream`: one per piece of text."""

    def __init__(self, model: str, plan: Plan, request_id: str | None) -> None:
        super().__init__(plan)
        self._head = {"model_name": model} | ({} if request_id is None else {"id": request_id})

    @override
    def whole(self) -> dict[str, Any]:
        return {**self._head, OUTPUT: "".join(self.choices[0].texts)}

    @override
    def open(self) -> bytes:
        return b""

    @override
    def chunk(self, step: Step) -> bytes:
        self.count(step)
        if not step.delta.text:
            return b""
        event = json.dumps({**self._head, OUTPUT: step.delta.text}, ensure_ascii=False, separators=(",", ":"))
        return f"data: {event}\n\n".encode(errors="surrogatepass")

    @override
    def close(self) -> bytes:
        return b""


class InferAnswer(GenerateAnswer):
    """The answer of `infer`: one text per text of the input."""

    def __init__(self, model: str, plan: Plan, request: InferRequest) -> None:
        super().__init__(model, plan, request.id)
        self._model = model
        self._request = request

    @override
    async def respond(self, exchange: Exchange) -> None:
        texts = ["".join(choice.texts) for choice in self.choices]
        body, head = written(self._request, self._model, texts)
        if head is None:
            await exchange.respond_text(200, body, b"application/json")
        else:
            length = (HEADER_LENGTH.encode(), str(head).encode())
            await exchange.respond_text(200, body, b"application/octet-stream", [length])
