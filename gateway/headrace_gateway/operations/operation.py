"""One operation that a client can request of a model, as a record.

Dispatch, the reading of a request, forwarding, `Allow`, and the API's documentation are derived from it. The tenant is
read in the same way for all operations: from the API key (`headrace_gateway.table`). How priority, cost and prefix are
read will be further fields, each with the code that uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import quote

from pydantic_core import from_json, to_json

from headrace.http.errors import InvalidRequest
from headrace.http.paths import PARAMETER


class Body(Enum):
    """The kind of a request body; the value is its media type."""

    JSON = "application/json"
    MULTIPART = "multipart/form-data"
    TENSOR = "application/octet-stream"
    """Open Inference Protocol v2 with the binary tensor extension: JSON, then raw tensors."""
    NONE = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the operation table."""

    name: str
    """The name in routes (`headrace.routes.operations`)."""
    path: str
    """Parameters are in braces, each for one segment: `/v2/models/{name}/infer`."""
    body: Body
    summary: str
    """For the documentation."""
    method: str = "POST"
    model_parameter: str | None = None
    """The path parameter that names the model; None: the field `model` of the JSON body."""
    can_stream: bool = False
    """Whether the field `stream` of the JSON body requests server-sent events."""
    always_streams: bool = False
    """Whether every answer is a stream of server-sent events."""
    required: tuple[str, ...] = ()
    """Fields of a JSON body; the gateway checks none but `model`."""
    example: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reject a row by which no request could be read."""
        if self.model_parameter is None and self.body is not Body.JSON:
            raise ValueError(f"{self.name}: only a JSON body can name the model")
        if self.can_stream and self.body is not Body.JSON:
            raise ValueError(f"{self.name}: only a JSON body can request a stream")
        if self.model_parameter is not None and self.model_parameter not in PARAMETER.findall(self.path):
            raise ValueError(f"{self.name}: {self.path} has no parameter {self.model_parameter}")

    def read(self, parameters: Mapping[str, str], body: bytes) -> tuple[str, bool]:
        """Return the model's public name, and whether a stream is requested. Raises InvalidRequest.

        A body is parsed only if a field of it is needed.
        """
        if self.model_parameter is not None and not self.can_stream:
            return parameters[self.model_parameter], self.always_streams
        try:
            request = from_json(body)
        except ValueError as error:
            raise InvalidRequest(f"the body is not JSON: {error}") from None
        if not isinstance(request, dict):
            raise InvalidRequest("the body is not a JSON object")
        name = request.get("model") if self.model_parameter is None else parameters[self.model_parameter]
        if not isinstance(name, str) or not name:
            raise InvalidRequest("`model` is missing or not a string", param="model", hint="GET /v1/models lists yours")
        return name, self.always_streams or (self.can_stream and request.get("stream") is True)

    def target(self, parameters: Mapping[str, str], engine_model_name: str | None = None) -> str:
        """Return the request target for a replica; parameters are percent-encoded.

        `engine_model_name` is the model's name in the engine; None: the public one.
        """
        if not parameters:
            return self.path
        if engine_model_name is not None and self.model_parameter is not None:
            parameters = {**parameters, self.model_parameter: engine_model_name}
        return PARAMETER.sub(lambda found: quote(parameters[found[1]], safe=""), self.path)

    def body_for(self, body: bytes, engine_model_name: str | None) -> bytes:
        """Return the body for a replica: unchanged, unless its engine has another name for the model."""
        if engine_model_name is None or self.model_parameter is not None:
            return body
        return to_json({**from_json(body), "model": engine_model_name})
