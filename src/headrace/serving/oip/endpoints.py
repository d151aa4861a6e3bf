"""The endpoints of the Open Inference Protocol for one served text model.

A text model has one input, `text_input`, and one output, `text_output`, both of BYTES and of the same shape. The
parameters of a request are fields of /v1/completions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from pydantic_core import from_json

from headrace.serving.engine import TextEngine
from headrace.serving.errors import InvalidRequest, ModelNotFound, UnsupportedParameter
from headrace.serving.exchange import Exchange, Handlers
from headrace.serving.metrics import RuntimeMetrics
from headrace.serving.oip.answers import GenerateAnswer, InferAnswer
from headrace.serving.oip.tensors import HEADER_LENGTH, INPUT, OUTPUT, read_request
from headrace.serving.openai.completions import CompletionBody
from headrace.serving.openai.generation import Generation
from headrace.serving.replica import Replica

PREFIX = "/v2"
EXTENSIONS = ("binary_tensor_data", "generate")
MAX_ID_CHARACTERS = 256
_MODEL = PREFIX + "/models/{name}"
_NOT_TEXT = ("model", "prompt", "n", "best_of", "logprobs", "echo", "stream_options")
"""Fields of completions that have no place in the protocol's requests or answers."""


class OIPEndpoints:
    """Metadata, health, inference and generation over a replica's text engine."""

    def __init__(self, replica: Replica[TextEngine], model: str, metrics: RuntimeMetrics) -> None:
        self._replica = replica
        self._model = model
        self._generation = Generation(replica, model, metrics)

    def handlers(self) -> Handlers:
        """Return the handlers by method and path."""
        return {
            ("GET", PREFIX): self._server,
            ("GET", PREFIX + "/health/live"): self._live,
            ("GET", PREFIX + "/health/ready"): self._ready,
            ("GET", _MODEL): self._metadata,
            ("GET", _MODEL + "/ready"): self._model_ready,
            ("POST", _MODEL + "/infer"): self._infer,
            ("POST", _MODEL + "/generate"): self._generate,
            ("POST", _MODEL + "/generate_stream"): self._generate_stream,
        }

    async def _server(self, exchange: Exchange) -> None:
        await exchange.respond({"name": "headrace", "version": version("headrace"), "extensions": EXTENSIONS})

    async def _live(self, exchange: Exchange) -> None:
        await _state(exchange, "live", holds=self._replica.alive)

    async def _ready(self, exchange: Exchange) -> None:
        await _state(exchange, "ready", holds=self._replica.ready)

    async def _metadata(self, exchange: Exchange) -> None:
        self._check_name(exchange)
        tensor = {"datatype": "BYTES", "shape": [-1]}
        tensors = {"inputs": [{"name": INPUT, **tensor}], "outputs": [{"name": OUTPUT, **tensor}]}
        await exchange.respond({"name": self._model, "platform": "headrace", "versions": ["1"], **tensors})

    async def _model_ready(self, exchange: Exchange) -> None:
        self._check_name(exchange)
        await _state(exchange, "ready", name=self._model, holds=self._replica.ready)

    async def _infer(self, exchange: Exchange) -> None:
        self._check_name(exchange)
        request = read_request(await exchange.body(), exchange.headers.get(HEADER_LENGTH.encode()))
        body = self._completion(exchange, request.texts, request.options, request.ignored)
        await self._generation.serve(exchange, body, lambda model, plan, _: InferAnswer(model, plan, request))

    async def _generate(self, exchange: Exchange) -> None:
        await self._serve_generate(exchange, stream=False)

    async def _generate_stream(self, exchange: Exchange) -> None:
        await self._serve_generate(exchange, stream=True)

    async def _serve_generate(self, exchange: Exchange, *, stream: bool) -> None:
        """Serve `{"text_input": …, "parameters": {…}}`; parameters may also be beside the input, as in Triton."""
        self._check_name(exchange)
        request = _object(await exchange.body())
        text, request_id = request.pop(INPUT, None), request.pop("id", None)
        parameters = request.pop("parameters", None) or {}
        if not isinstance(text, str):
            raise InvalidRequest(f"`{INPUT}` is missing or not a string", param=INPUT)
        if not isinstance(parameters, dict):
            raise InvalidRequest("`parameters`: input should be an object", param="parameters")
        if request_id is not None and not (isinstance(request_id, str) and len(request_id) <= MAX_ID_CHARACTERS):
            raise InvalidRequest(f"`id` is not a string of at most {MAX_ID_CHARACTERS} characters", param="id")
        options = {**parameters, **request}
        if options.setdefault("stream", stream) is not stream:
            raise UnsupportedParameter(
                f"`stream: {json.dumps(not stream)}` is not for this path",
                param="stream",
                hint="`generate` answers as a whole, `generate_stream` in a stream",
            )
        body = self._completion(exchange, [text], options)
        await self._generation.serve(exchange, body, lambda model, plan, _: GenerateAnswer(model, plan, request_id))

    def _completion(
        self, exchange: Exchange, texts: Iterable[str], options: Mapping[str, Any], ignored: Iterable[str] = ()
    ) -> CompletionBody:
        """Return the request as a completion. Raises InvalidRequest that names the parameter at fault."""
        for name in _NOT_TEXT:
            if options.get(name) is not None:
                raise UnsupportedParameter(f"`{name}` is not supported here", param=name, hint="Use /v1/completions")
        given = {**options, "model": self._model, "prompt": list(texts)}
        body = CompletionBody.read(json.dumps(given).encode())
        unknown = [*ignored, *body.ignored]
        if unknown:
            exchange.warn(f"ignored unknown fields: {', '.join(unknown)}")
        return body

    def _check_name(self, exchange: Exchange) -> None:
        name = exchange.parameters["name"]
        if name != self._model:
            raise ModelNotFound(f"the model {name[:256]!r} is not served here", hint=f"Use {self._model!r}")


def _object(raw: bytes) -> dict[str, Any]:
    try:
        body = from_json(raw)
    except ValueError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise InvalidRequest("the body is not a JSON object")
    return body


async def _state(exchange: Exchange, what: str, *, holds: bool, name: str | None = None) -> None:
    """Answer whether a state holds: with 200, or with 503 as probes expect."""
    body = {what: holds} if name is None else {"name": name, what: holds}
    await exchange.respond_text(200 if holds else 503, json.dumps(body).encode(), b"application/json")
