"""A thin client of the API server over aiohttp.

The guard checks the Lease immediately before the bytes of a write go to the socket, without an await in between. So a
former leader whose process was stopped for half a minute can send at most one write before the check ends it; writes
that it had sent before have arrived by then.

Requests are not retried here: the loop repeats a failed reconcile pass.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from typing_extensions import override

from headrace.api.vocabulary import FIELD_MANAGER
from headrace.errors import HeadraceError
from headrace.reconcile.world import Manifest
from headrace_operator.connection import CONNECT_SECONDS, Connection
from headrace_operator.kinds import Watched
from headrace_operator.metrics import WRITES

LEASE_SECONDS = 1.5
"""Timeout of a write of the Lease: a renewal is valid for 6 s, and one hanging request must not lose it."""
PAGE = 500
"""Page size of lists: bounds memory here and work in the API server."""
WATCH_SECONDS = 300
"""The API server ends a watch after this long."""
WATCH_SILENCE_SECONDS = 70.0
"""A watch without any event counts as dead: there is a bookmark each minute."""

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
_STRATEGIC = "application/strategic-merge-patch+json"
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_ONE_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
BAD_REQUEST, FORBIDDEN, NOT_FOUND, CONFLICT, TOO_LARGE, INVALID, TOO_MANY = 400, 403, 404, 409, 413, 422, 429
UNREACHABLE = 0
TIMED_OUT = 504
"""Also if a request gets no response while the API server answers others (a webhook hangs)."""
_ERRORS, _SERVER_ERRORS = 400, 500


class ApiError(HeadraceError):
    """The API server rejected a request, or is unreachable (status UNREACHABLE)."""

    reason = "ApiServer"

    def __init__(self, status: int, message: str, *, said: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.said = said or message
        """The API server's own message, without method and path."""

    @override
    def __str__(self) -> str:
        return f"API server: {self.status or 'unreachable'}: {self.message}"

    @property
    def passes(self) -> bool:
        """Whether the error may be temporary."""
        return self.status in (UNREACHABLE, TOO_MANY) or self.status >= _SERVER_ERRORS


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a list. The namespace of a cluster-scoped object is empty."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The objects of a list and its resourceVersion; newer objects are not compared with it."""

    version: int
    objects: tuple[Listed, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A change of an object with a watched name."""

    type: str
    """`ADDED`, `MODIFIED` or `DELETED`."""
    namespace: str


class ApiServer:
    """A session with the API server. `guard` raises or ends the process if this replica may not write."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.guard: Callable[[], None] = _not_leading
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = self.connection.session()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str) -> Manifest:
        """Return an object. Raises ApiError."""
        return await self._request("GET", path)

    async def select(self, path: str, fields: str) -> list[Manifest]:
        """Return the first page of the objects that a field selector matches. Raises ApiError."""
        answer = await self._request("GET", path, query={"fieldSelector": fields, "limit": str(PAGE)})
        return list(answer["items"] or ())  # null when there are none

    async def listing(self, watched: Watched, namespace: str | None) -> Listing:
        """List the objects of a kind; only metadata is transferred."""
        version, objects = 0, []
        async for page in self._pages(watched, namespace):
            version = int(page["metadata"]["resourceVersion"])
            for item in page["items"] or ():  # null when there are none
                metadata = item["metadata"]
                objects.append(Listed(metadata.get("namespace", ""), metadata["name"], metadata["uid"]))
        return Listing(version, tuple(objects))

    async def _pages(self, watched: Watched, namespace: str | None) -> AsyncIterator[Manifest]:
        query = {"limit": str(PAGE)} | ({"labelSelector": watched.selector} if watched.selector else {})
        while True:
            headers = {"Accept": _METADATA_ONLY}
            page = await self._request("GET", watched.path(namespace), query=query, headers=headers)
            yield page
            following = page["metadata"].get("continue")
            if not following:
                return
            query["continue"] = following

    async def changes(self, watched: Watched, namespace: str | None, name: str) -> AsyncIterator[Change]:
        """Yield the changes of objects with one name, until the API server ends the watch. Raises ApiError.

        Only metadata is transferred. The watch begins with an `ADDED` for each existing object.
        """
        assert self._session is not None
        path = watched.path(namespace)
        query = {
            "watch": "1",
            "fieldSelector": f"metadata.name={name}",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=WATCH_SILENCE_SECONDS)
        url, headers = self.connection.server + path, {"Accept": _ONE_METADATA_ONLY}
        try:
            async with self._session.get(url, params=query, headers=headers, timeout=timeout) as response:
                if response.status >= _ERRORS:
                    raise ApiError(response.status, f"GET {path}: {_message(await response.read())}")
                async for line in response.content:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(int(event["object"].get("code") or 0), f"GET {path}: {_message(line)}")
                    if event["type"] != "BOOKMARK":
                        yield Change(event["type"], event["object"]["metadata"]["namespace"])
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ApiError(0, f"GET {path}: {error or type(error).__name__}") from error

    async def apply(self, path: str, manifest: Manifest, *, force: bool) -> Manifest:
        """Apply server-side as the owner of the manifest's fields; return the object.

        Without `force`, a field with another value of another manager is a conflict (409).
        """
        query = {"fieldManager": FIELD_MANAGER, "force": "true" if force else "false"}
        return await self._write("apply", "PATCH", path, manifest, content_type=_APPLY, query=query)

    async def merge(self, path: str, patch: Manifest) -> Manifest:
        """Merge-patch an object; return it."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._write("patch", "PATCH", path, patch, content_type=_MERGE, query=query)

    async def merge_lists(self, path: str, patch: Manifest) -> Manifest:
        """Patch a built-in object by its lists' keys (strategic merge); return it."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._write("patch", "PATCH", path, patch, content_type=_STRATEGIC, query=query)

    async def replace_status(self, path: str, uid: str, status: Manifest) -> Manifest:
        """Replace the whole status, if the object still has this uid (else 422).

        A merge patch would keep fields that the new status no longer has, at any depth.
        """
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
        ]
        query = {"fieldManager": FIELD_MANAGER}
        return await self._write("patch", "PATCH", f"{path}/status", patch, content_type=_JSON_PATCH, query=query)

    async def create(self, path: str, manifest: Manifest) -> Manifest:
        """Create an object in a collection."""
        return await self._write("create", "POST", path, manifest)

    async def delete(self, path: str, *, uid: str | None = None) -> None:
        """Delete an object and, in the background, its dependents; an absent one (with this uid) is no error."""
        options: Manifest = {"propagationPolicy": "Background"} | ({"preconditions": {"uid": uid}} if uid else {})
        try:
            await self._write("delete", "DELETE", path, options)
        except ApiError as error:
            if error.status not in (NOT_FOUND, CONFLICT):
                raise

    async def write_lease(self, method: str, path: str, lease: Manifest) -> Manifest:
        """Write the Lease: the only write without the guard."""
        return await self._request(method, path, body=lease, timeout_seconds=LEASE_SECONDS)

    async def _write(
        self,
        verb: str,
        method: str,
        path: str,
        body: Any,
        *,
        content_type: str = "application/json",
        query: dict[str, str] | None = None,
    ) -> Manifest:
        self.guard()
        headers = {"Content-Type": content_type}
        answer = await self._request(method, path, body=body, query=query, headers=headers, guard=self.guard)
        WRITES.labels(verb=verb, kind=str(answer.get("kind", ""))).inc()
        return answer

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        timeout_seconds: float | None = None,
        guard: Callable[[], None] | None = None,
    ) -> Manifest:
        assert self._session is not None
        given = {"Accept": "application/json", "Content-Type": "application/json", **(headers or {})}
        data = None if body is None else _Body(json.dumps(body, separators=(",", ":")).encode(), guard)
        url, began = self.connection.server + path, time.monotonic()
        try:
            async with (
                asyncio.timeout(timeout_seconds),
                self._session.request(method, url, params=query, data=data, headers=given) as response,
            ):
                raw = await response.read()
        except TimeoutError as error:
            status, said = (TIMED_OUT if self.connection.answered_at > began else UNREACHABLE), "no response in time"
            raise ApiError(status, f"{method} {path}: {said}", said=said) from error
        except (aiohttp.ClientError, OSError) as error:
            raise ApiError(UNREACHABLE, f"{method} {path}: {error or type(error).__name__}") from error
        if response.status >= _ERRORS:
            said = _message(raw)
            raise ApiError(response.status, f"{method} {path}: {said}", said=said)
        answer: Manifest = json.loads(raw)
        return answer


class _Body(aiohttp.BytesPayload):
    """A request's body that calls the guard when it is sent: the request may have waited for a connection before."""

    def __init__(self, value: bytes, guard: Callable[[], None] | None) -> None:
        super().__init__(value)
        self._guard = guard

    @override
    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        if self._guard is not None:
            self._guard()
        await super().write_with_length(writer, content_length)


def _message(raw: bytes) -> str:
    try:
        return str(json.loads(raw)["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return raw[:200].decode(errors="replace")


def _not_leading() -> None:
    raise ApiError(UNREACHABLE, "this replica does not lead")
