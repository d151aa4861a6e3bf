"""The operations of OpenAI's API, and vLLM's two for tokens."""

from __future__ import annotations

from headrace.routes import operations
from headrace_gateway.operations.operation import Body, Operation

_MODEL = "smollm2-135m-instruct"

CHAT = Operation(
    name=operations.CHAT,
    path="/v1/chat/completions",
    body=Body.JSON,
    can_stream=True,
    summary="Answer a conversation",
    required=("model", "messages"),
    example={"model": _MODEL, "messages": [{"role": "user", "content": "Why is the sky blue?"}]},
)
COMPLETIONS = Operation(
    name=operations.COMPLETIONS,
    path="/v1/completions",
    body=Body.JSON,
    can_stream=True,
    summary="Complete a text",
    required=("model", "prompt"),
    example={"model": _MODEL, "prompt": "Once upon a time"},
)
RESPONSES = Operation(
    name=operations.RESPONSES,
    path="/v1/responses",
    body=Body.JSON,
    can_stream=True,
    summary="Answer a conversation in items",
    required=("model", "input"),
    example={"model": _MODEL, "input": "Why is the sky blue?"},
)
EMBEDDINGS = Operation(
    name=operations.EMBEDDINGS,
    path="/v1/embeddings",
    body=Body.JSON,
    summary="Embed texts",
    required=("model", "input"),
    example={"model": _MODEL, "input": "Once upon a time"},
)
TOKENIZE = Operation(
    name=operations.TOKENIZE,
    path="/tokenize",
    body=Body.JSON,
    summary="Encode a text or a conversation",
    required=("model",),
    example={"model": _MODEL, "prompt": "Once upon a time"},
)
DETOKENIZE = Operation(
    name=operations.DETOKENIZE,
    path="/detokenize",
    body=Body.JSON,
    summary="Decode tokens",
    required=("model", "tokens"),
    example={"model": _MODEL, "tokens": [1, 2, 3]},
)
