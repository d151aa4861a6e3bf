"""The operations of the Open Inference Protocol v2 over HTTP.

The path names the model, so that no body is parsed here; the answer to a readiness request is the model's own, which is
woken for it.
"""

from __future__ import annotations

from headrace.routes import operations
from headrace_gateway.operations.operation import Body, Operation

_MODEL = "model"
_PATH = f"/v2/models/{{{_MODEL}}}"

METADATA = Operation(
    name=operations.METADATA,
    path=_PATH,
    method="GET",
    body=Body.NONE,
    model_parameter=_MODEL,
    summary="Describe the inputs and outputs of a model",
)
MODEL_READY = Operation(
    name=operations.METADATA,
    path=f"{_PATH}/ready",
    method="GET",
    body=Body.NONE,
    model_parameter=_MODEL,
    summary="Wake a model, and answer whether it is ready",
)
INFER = Operation(
    name=operations.INFER,
    path=f"{_PATH}/infer",
    body=Body.TENSOR,
    model_parameter=_MODEL,
    summary="Infer tensors from tensors",
)
GENERATE = Operation(
    name=operations.GENERATE,
    path=f"{_PATH}/generate",
    body=Body.JSON,
    model_parameter=_MODEL,
    summary="Generate text",
    required=("text_input",),
    example={"text_input": "Once upon a time", "parameters": {"max_tokens": 16}},
)
GENERATE_STREAM = Operation(
    name=operations.GENERATE,
    path=f"{_PATH}/generate_stream",
    body=Body.JSON,
    model_parameter=_MODEL,
    always_streams=True,
    summary="Generate text as a stream of events",
    required=("text_input",),
    example={"text_input": "Once upon a time", "parameters": {"max_tokens": 16}},
)
