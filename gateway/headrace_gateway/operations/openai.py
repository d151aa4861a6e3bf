"""The operations of OpenAI's API."""

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
