"""The operation table as paths of an OpenAPI schema."""

from __future__ import annotations

from typing import Any

from headrace.http.paths import PARAMETER
from headrace_gateway.operations.matching import OperationTable
from headrace_gateway.operations.operation import Body, Operation

_ERROR = {"content": {"application/json": {"schema": {"type": "object"}}}}
_STREAM = (
    ' With `"stream": true` the answer is a stream of server-sent events; while the model wakes, comments contain the '
    "stage (`: headrace stage=loading-weights 41%`)."
)


def paths(operations: OperationTable) -> dict[str, Any]:
    """Return the schema's entries, by path and method."""
    made: dict[str, Any] = {}
    for operation in operations:
        made.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    return made


def _described(operation: Operation) -> dict[str, Any]:
    forwarded = "Forwarded unchanged to a replica of the model, which is woken when it is at zero."
    description: dict[str, Any] = {
        "tags": ["inference"],
        "summary": operation.summary,
        "description": forwarded + (_STREAM if operation.can_stream else ""),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in PARAMETER.findall(operation.path)
        ],
        "responses": {
            "200": {
                "description": "The model's answer",
                "content": _answer_content(operation),
            },
            "400": {"description": "The body is not valid; `error.param` is the field", **_ERROR},
            "401": {"description": "The API key is missing or not valid", **_ERROR},
            "404": {"description": "No such model for this key", **_ERROR},
            "413": {"description": "The body is too large", **_ERROR},
            "429": {"description": "The model's queue is full; see Retry-After", **_ERROR},
            "503": {"description": "No replica in time, or the model is unavailable; see Retry-After", **_ERROR},
        },
    }
    if operation.body is not Body.NONE:
        content: dict[str, Any] = {"schema": _body_schema(operation)}
        if operation.example:
            content["example"] = operation.example
        description["requestBody"] = {"required": True, "content": {operation.body.value: content}}
    return description


def _answer_content(operation: Operation) -> dict[str, Any]:
    events: dict[str, Any] = {"text/event-stream": {}}
    if operation.always_streams:
        return events
    return {"application/json": {}} | (events if operation.can_stream else {})


def _body_schema(operation: Operation) -> dict[str, Any]:
    if operation.body is Body.TENSOR:
        return {"type": "string", "format": "binary"}
    properties = {"model": {"type": "string"}} if operation.model_parameter is None else {}
    if operation.can_stream:
        properties["stream"] = {"type": "boolean"}
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": True}
    return schema | ({"required": list(operation.required)} if operation.required else {})
