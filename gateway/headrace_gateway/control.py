"""Everything but inference: the list of models, health, metrics, and the documentation of the whole API.

FastAPI provides the schema; no token passes here.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from headrace.errors import HeadraceError
from headrace.http.answers import error_body, error_fields
from headrace.http.errors import MethodNotAllowed, NoSuchPath
from headrace.http.protocol import check_guard
from headrace.routes import KeyGrant, Route
from headrace_gateway.errors import InvalidApiKey
from headrace_gateway.metrics import CONTENT_TYPE, GatewayMetrics
from headrace_gateway.operations import OPERATIONS, OperationTable, documentation
from headrace_gateway.table import Table

METRICS_PATH = "/metrics"
DESCRIPTION = "The API of OpenAI for the models that an API key gives access to, and health and metrics of the gateway."
PREFIX = "/v1"
_BASE_URL_HINT = f"OpenAI clients need the base URL of this gateway with {PREFIX} at its end"


class ModelCard(BaseModel):
    """One model, in OpenAI's shape."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    parent: str | None = None
    """Of a LoRA adapter: its model."""


class ModelList(BaseModel):
    """The models that the key gives access to."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ControlApp(FastAPI):
    """FastAPI that answers HEAD like GET, and whose schema includes the inference paths."""

    inference_paths: Mapping[str, Any] = {}
    """The operation table as paths of the schema."""

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; the server leaves out the body of an answer to HEAD."""
        await super().__call__({**scope, "method": "GET"} if scope["method"] == "HEAD" else scope, receive, send)

    @override
    def openapi(self) -> dict[str, Any]:
        """Return the schema."""
        if self.openapi_schema is None:
            schema = super().openapi()
            schema["paths"] |= self.inference_paths
        assert self.openapi_schema is not None
        return self.openapi_schema


def metrics_app(metrics: GatewayMetrics) -> FastAPI:
    """Return an application that serves metrics and nothing else."""
    app = ControlApp(openapi_url=None)
    _add_metrics(app, metrics)
    return app


def control_app(table: Table, metrics: GatewayMetrics | None, operations: OperationTable = OPERATIONS) -> ControlApp:
    """Return the application; metrics are None if the listener is public: they name every tenant's models."""
    app = ControlApp(title="headrace gateway", version=version("headrace"), description=DESCRIPTION)
    app.inference_paths = documentation.paths(operations)

    @app.get("/v1/models", tags=["models"], response_model_exclude_none=True)
    async def list_models(request: Request) -> ModelList:
        """List the models that the key gives access to, at zero or not."""
        grant = await _authenticate(table, request)
        return ModelList(data=[_card(name, route) for name, route in table.visible(grant)])

    @app.get("/v1/models/{name:path}", tags=["models"], response_model_exclude_none=True)
    async def get_model(request: Request, name: str) -> ModelCard:
        """Describe one model."""
        route = table.find(await _authenticate(table, request), name).route
        assert route is not None
        return _card(name, route)

    _add_health(app, table)
    _add_inference_protocol(app, table)
    if metrics is not None:
        _add_metrics(app, metrics)

    @app.exception_handler(HeadraceError)
    async def explain(request: Request, error: HeadraceError) -> Response:
        del request
        return _error_response(error)

    @app.exception_handler(HTTPException)
    async def explain_http(request: Request, error: HTTPException) -> Response:
        allow = operations.allowed(request.scope) or _allow(error)
        if allow is None and _lacks_prefix(request, operations):
            return _error_response(NoSuchPath(f"there is no {request.url.path[:200]} here", hint=_BASE_URL_HINT))
        return _error_response(_no_such_operation(request, allow))

    return app


def _lacks_prefix(request: Request, operations: OperationTable) -> bool:
    """Whether the path would exist with the prefix that OpenAI clients expect in their base URL."""
    path, raw_path = f"{PREFIX}{request.url.path}", PREFIX.encode() + request.scope["raw_path"]
    scope = {**request.scope, "path": path, "raw_path": raw_path}
    return path.startswith(f"{PREFIX}/models") or operations.allowed(scope) is not None


def _with_head(allow: str) -> str:
    """Return the methods of a path that answers HEAD like GET."""
    methods = {method.strip() for method in allow.split(",")}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def _add_health(app: FastAPI, table: Table) -> None:
    @app.get("/healthz", tags=["health"], response_class=PlainTextResponse)
    async def healthz() -> str:
        """Answer 200 as long as the process serves."""
        return "ok\n"

    @app.get("/readyz", tags=["health"], response_class=PlainTextResponse)
    async def readyz(response: Response) -> str:
        """Answer 200 once routes and keys are known, from NATS or from disk."""
        if not table.loaded.is_set():
            response.status_code = 503
            return "waiting for routes and keys\n"
        return "ok\n"

    @app.get("/health", tags=["health"], response_class=PlainTextResponse)
    async def health(response: Response) -> str:
        """Same as /readyz: load generators and clients of other engines use this path."""
        return await readyz(response)


def _add_inference_protocol(app: FastAPI, table: Table) -> None:
    """Add the endpoints of the Open Inference Protocol that are not about one model."""

    @app.get("/v2", tags=["health"])
    async def server() -> dict[str, Any]:
        """Describe the server, as the Open Inference Protocol has it."""
        extensions = ["binary_tensor_data", "generate"]
        return {"name": "headrace", "version": version("headrace"), "extensions": extensions}

    @app.get("/v2/health/live", tags=["health"])
    async def live() -> dict[str, bool]:
        """Answer 200 as long as the process serves."""
        return {"live": True}

    @app.get("/v2/health/ready", tags=["health"])
    async def ready(response: Response) -> dict[str, bool]:
        """Answer 200 once routes and keys are known."""
        if not table.loaded.is_set():
            response.status_code = 503
        return {"ready": table.loaded.is_set()}


def _add_metrics(app: FastAPI, metrics: GatewayMetrics) -> None:
    @app.get(METRICS_PATH, tags=["health"], response_class=PlainTextResponse)
    async def exposition() -> Response:
        """Return Prometheus metrics."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)


async def _authenticate(table: Table, request: Request) -> KeyGrant:
    values = request.headers.getlist("authorization")
    if len(values) > 1:
        raise InvalidApiKey("there is more than one Authorization header", hint="Send one")
    if not table.loaded.is_set():
        await table.wait_loaded()
        check_guard(request.scope)
    return table.authenticate(values[0].encode("latin-1") if values else None)


def _card(name: str, route: Route) -> ModelCard:
    """Return a model or adapter in OpenAI's shape; an adapter names its model as `parent`, as in vLLM."""
    parent = None if name == route.public_name else route.public_name
    return ModelCard(id=name, created=route.created, owned_by=route.namespace, parent=parent)


def _allow(error: HTTPException) -> str | None:
    """Return the methods of a path of this application; None when there is no such path."""
    allow = (error.headers or {}).get("Allow")
    return None if allow is None else _with_head(allow)


def _no_such_operation(request: Request, allow: str | None) -> HeadraceError:
    path = request.url.path
    if allow is None:
        return NoSuchPath(f"there is no {path[:200]} here", hint="GET /openapi.json lists the endpoints")
    return MethodNotAllowed(f"{path[:200]} does not take {request.method}", allow=allow)


def _error_response(error: HeadraceError) -> Response:
    response = JSONResponse(error_body(error), error.http_status)
    response.raw_headers += error_fields(error)
    return response
