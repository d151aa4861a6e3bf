"""The instance's API over its Unix socket: a small Kubernetes API server for the command line.

Paths, verbs and objects are those of Kubernetes. Tables and field selectors are not supported, because the command line
formats its output itself. Handlers are thin: the rules of what users may change are in `headrace.local.objects`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from headrace.api.kinds import Kind
from headrace.errors import HeadraceError, NotFound
from headrace.local.api_shapes import (
    BadRequest,
    TooLarge,
    UnsupportedMediaType,
    failure,
    kind_at,
    list_of,
    scale_of,
    shown,
    status,
)
from headrace.local.home import Record, home_fault
from headrace.local.index import Change
from headrace.local.objects import Objects
from headrace.reconcile.world import Manifest

MAX_BODY_BYTES = 1024 * 1024
"""A Kubernetes API server accepts 3 MiB and stores 1.5; a headrace resource has a few KiB."""
APPLY_PATCH = "application/apply-patch+json"
MERGE_PATCH = "application/merge-patch+json"
CHANGED_HEADER = "x-headrace-changed"
"""In the response to an apply: whether anything has changed."""

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Target:
    """The kind, namespace and object that a path names."""

    kind: Kind
    namespace: str | None
    name: str | None


class Api:
    """The application. `stopping` ends the streams; `request_stop` is called for `headrace down`."""

    def __init__(
        self, objects: Objects, record: Record, stopping: asyncio.Event, request_stop: Callable[[], None]
    ) -> None:
        self._objects = objects
        self._record = record
        self._stopping = stopping
        self._request_stop = request_stop

    def app(self) -> Starlette:
        """Return the ASGI application."""
        routes = [
            Route("/headrace/v1/instance", self._instance),
            Route("/headrace/v1/shutdown", self._shutdown, methods=["POST"]),
            Route("/metrics", self._metrics),
            Route("/api/v1/namespaces/{namespace}/pods/{name}/log", self._log),
        ]
        for prefix in ("/api/{version}", "/apis/{group}/{version}"):
            scoped = prefix + "/namespaces/{namespace}/{plural}"
            routes += [
                Route(prefix + "/{plural}", self._list),
                Route(scoped, self._list),
                Route(scoped + "/{name}", self._get),
                Route(scoped + "/{name}", self._apply, methods=["PATCH"]),
                Route(scoped + "/{name}", self._delete, methods=["DELETE"]),
                Route(scoped + "/{name}/scale", self._scale, methods=["PATCH"]),
            ]
        handlers: dict[Any, Any] = {
            HeadraceError: _explained,
            OSError: _system_fault,
            HTTPException: _refused,
            Exception: _failed,
        }
        return Starlette(routes=routes, exception_handlers=handlers)

    async def _instance(self, request: Request) -> Response:
        del request
        return JSONResponse(self._record.as_json())

    async def _shutdown(self, request: Request) -> Response:
        del request
        self._request_stop()
        return JSONResponse(status("Success", 202, "the instance is stopping"), 202)

    async def _metrics(self, request: Request) -> Response:
        del request
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    async def _list(self, request: Request) -> Response:
        target = _target(request)
        if request.query_params.get("watch") == "true":
            changes = self._objects.watch(target.kind, target.namespace)  # starts before the response's head is sent
            return StreamingResponse(self._lines(changes), media_type="application/json")
        return JSONResponse(list_of(target.kind, self._objects.list(target.kind, target.namespace)))

    async def _get(self, request: Request) -> Response:
        kind, namespace, name = _one(request)
        return JSONResponse(shown(self._objects.get(kind, namespace, name)))

    async def _apply(self, request: Request) -> Response:
        manifest = await _body(request, APPLY_PATCH)
        _check_names(manifest, _target(request))
        applied = self._objects.apply(manifest, dry_run=request.query_params.get("dryRun") == "All")
        headers = {CHANGED_HEADER: str(applied.changed).lower()}
        return JSONResponse(shown(applied.manifest), 201 if applied.created else 200, headers=headers)

    async def _delete(self, request: Request) -> Response:
        kind, namespace, name = _one(request)
        self._objects.delete(kind, namespace, name)
        return JSONResponse(status("Success", 200, f"{kind.singular} {name} is deleted"))

    async def _scale(self, request: Request) -> Response:
        kind, namespace, name = _one(request)
        body = await _body(request, MERGE_PATCH)
        spec = body.get("spec")
        replicas = spec.get("replicas") if isinstance(spec, dict) else None
        if not isinstance(replicas, int) or isinstance(replicas, bool):
            raise BadRequest('the body of a scale request must be {"spec": {"replicas": N}}')
        return JSONResponse(scale_of(self._objects.scale(kind, namespace, name, replicas)))

    async def _log(self, request: Request) -> Response:
        query = request.query_params
        chunks = self._objects.logs(
            request.path_params["namespace"],
            request.path_params["name"],
            follow=query.get("follow") == "true",
            tail_lines=_whole_number(query.get("tailLines")),
            previous=query.get("previous") == "true",
        )
        return StreamingResponse(until(chunks, self._stopping), media_type="text/plain; charset=utf-8")

    async def _lines(self, changes: AsyncIterator[Change]) -> AsyncIterator[bytes]:
        async for change in until(changes, self._stopping):
            yield json.dumps({"type": change.type, "object": shown(change.object)}).encode() + b"\n"


Item = TypeVar("Item")


async def until(source: AsyncIterator[Item], stopping: asyncio.Event) -> AsyncIterator[Item]:
    """Yield from the source until it ends or the event is set."""
    stopped = asyncio.create_task(stopping.wait())
    pending: asyncio.Future[Item] | None = None
    try:
        while True:
            pending = asyncio.ensure_future(anext(source))
            await asyncio.wait((pending, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not pending.done():
                return
            yield pending.result()
    except StopAsyncIteration:
        return
    finally:
        stopped.cancel()
        if pending is not None:
            pending.cancel()  # this runs the clean-up of the source


def _target(request: Request) -> Target:
    """Return the target of a path. Raises NotFound for an unknown kind."""
    path = request.path_params
    version = path["version"]
    api_version = f"{path['group']}/{version}" if "group" in path else version
    kind = kind_at(api_version, path["plural"])
    if kind is None:
        raise NotFound(f"the kind {path['plural']} does not exist in {api_version}")
    return Target(kind, path.get("namespace"), path.get("name"))


def _one(request: Request) -> tuple[Kind, str, str]:
    target = _target(request)
    assert target.namespace is not None
    assert target.name is not None
    return target.kind, target.namespace, target.name


def _check_names(manifest: Manifest, target: Target) -> None:
    """Raise BadRequest if the body is another object than the path names."""
    metadata = manifest.get("metadata")
    if not isinstance(metadata, dict):
        raise BadRequest("the body has no metadata")
    given = (manifest.get("apiVersion"), manifest.get("kind"), metadata.get("namespace"), metadata.get("name"))
    named = (target.kind.api_version, target.kind.kind, target.namespace, target.name)
    if given != named:
        raise BadRequest(f"the body is {_words(given)}, but the path is {_words(named)}")


def _words(names: tuple[object, ...]) -> str:
    return " ".join(str(name) for name in names)


def _whole_number(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal():
        raise BadRequest(f"{text!r} is not a number of lines")
    return int(text)


async def _body(request: Request, content_type: str) -> Manifest:
    """Return the body, a JSON object. Raises BadRequest unless it has the content type that the verb requires."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != content_type:
        raise UnsupportedMediaType(f"the content type of the body must be {content_type}")
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > MAX_BODY_BYTES:
            raise TooLarge(f"the body is larger than {MAX_BODY_BYTES >> 20} MiB")
    try:
        body = json.loads(received)
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is not JSON") from error
    if not isinstance(body, dict):
        raise BadRequest("the body is not a JSON object")
    return body


async def _explained(request: Request, error: HeadraceError) -> Response:
    del request
    return JSONResponse(failure(error), error.http_status)


async def _system_fault(request: Request, error: OSError) -> Response:
    """An error of the operating system, mostly a full disk."""
    return await _explained(request, home_fault(error))


async def _refused(request: Request, error: HTTPException) -> Response:
    """A path or verb that does not exist."""
    message = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(status("Failure", error.status_code, message), error.status_code, headers=error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    """A bug. Starlette logs it with its traceback afterwards."""
    message = f"{request.method} {request.url.path} failed: {type(error).__name__}"
    return JSONResponse(status("Failure", 500, message, reason="InternalError"), 500)
