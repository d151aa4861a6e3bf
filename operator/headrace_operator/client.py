"""The API server over HTTP: one thin module over aiohttp.

Writes go one after another, and right before each of them the guard is asked whether this replica still leads. So an
operator that was stopped for half a minute and wakes up as the former leader has at most one write under way, and ends
at the next. It costs little: an apply takes 3 ms on a near API server.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from typing import Self

import aiohttp
import kopf
from kopf import ConnectionInfo
from typing_extensions import override

from headrace.api.vocabulary import FIELD_MANAGER
from headrace.errors import CannotStart, HeadraceError
from headrace.reconcile.world import Manifest
from headrace_operator.kinds import Watched
from headrace_operator.metrics import WRITES

ANSWER = aiohttp.ClientTimeout(total=15, connect=5)
"""For any request: an API server that takes longer is away, and the loop tries again."""
PAGE = 500
"""Objects of a list read at once: bounds memory here and work there."""
LOGIN_SECONDS = 60.0
"""How often credentials are read anew: a service account's token is replaced about every hour."""

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_STRATEGIC = "application/strategic-merge-patch+json"
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
NOT_FOUND, CONFLICT, INVALID = 404, 409, 422


class ApiError(HeadraceError):
    """The API server refused, or could not be reached (status 0)."""

    reason = "ApiServer"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @override
    def __str__(self) -> str:
        return f"API server: {self.status or 'unreachable'}: {self.message}"


class ApiServer:
    """A session with the API server. `guard` raises, or does not return, when this replica may not write."""

    def __init__(self, pod_name: str) -> None:
        self._user_agent = f"headrace-operator/{version('headrace')} ({pod_name})"
        self._login_at = float("-inf")
        self._authorization: dict[str, str] = {}
        self._writing = asyncio.Lock()
        self._server = ""
        self._session: aiohttp.ClientSession | None = None
        self.guard: Callable[[], None] = _nobody_leads
        self.answered = time.monotonic()
        """When the API server last answered anything."""

    async def __aenter__(self) -> Self:
        info = login()
        self._server = info.server.rstrip("/")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=info.as_ssl_context(), limit=8),
            headers={"User-Agent": self._user_agent, "Accept": "application/json"},
            timeout=ANSWER,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str) -> Manifest:
        """Return an object. Raises ApiError."""
        return await self._request("GET", path)

    async def list(
        self, watched: Watched, namespace: str | None = None, *, metadata_only: bool = False
    ) -> AsyncIterator[Manifest]:
        """Yield the objects of a kind, or their metadata, page by page."""
        query = {"limit": str(PAGE)} | ({"labelSelector": watched.selector} if watched.selector else {})
        while True:
            accept = {"Accept": _METADATA_ONLY} if metadata_only else {}
            page = await self._request("GET", watched.path(namespace), query=query, headers=accept)
            for item in page["items"] or ():  # an empty list of metadata alone is null
                yield {"apiVersion": watched.api_version, "kind": watched.kind, **item}
            following = page["metadata"].get("continue")
            if not following:
                return
            query["continue"] = following

    async def apply(self, path: str, manifest: Manifest) -> Manifest:
        """Apply server-side, as the owner of what is said; return the object as it is then."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._write("apply", "PATCH", path, manifest, content_type=_APPLY, query=query)

    async def merge(self, path: str, patch: Manifest) -> Manifest:
        """Merge-patch an object; return it as it is then."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._write("patch", "PATCH", path, patch, content_type=_MERGE, query=query)

    async def merge_lists(self, path: str, patch: Manifest) -> Manifest:
        """Patch a built-in object by its lists' keys (strategic merge); return it as it is then."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._write("patch", "PATCH", path, patch, content_type=_STRATEGIC, query=query)

    async def create(self, path: str, manifest: Manifest) -> Manifest:
        """Create an object in a collection."""
        return await self._write("create", "POST", path, manifest)

    async def delete(self, path: str, *, uid: str | None = None) -> None:
        """Delete an object and, in the background, what it owns. Nothing happens when it, or this one, is gone."""
        options: Manifest = {"propagationPolicy": "Background"} | ({"preconditions": {"uid": uid}} if uid else {})
        try:
            await self._write("delete", "DELETE", path, options)
        except ApiError as error:
            if error.status not in (NOT_FOUND, CONFLICT):
                raise

    async def write_lease(self, method: str, path: str, lease: Manifest) -> Manifest:
        """Write the Lease: not guarded by itself, and not behind other writes."""
        return await self._request(method, path, body=lease)

    async def _write(
        self,
        verb: str,
        method: str,
        path: str,
        body: Manifest,
        *,
        content_type: str = "application/json",
        query: dict[str, str] | None = None,
    ) -> Manifest:
        async with self._writing:
            self.guard()
            answer = await self._request(method, path, body=body, query=query, headers={"Content-Type": content_type})
        WRITES.labels(verb=verb, kind=str(body.get("kind", "") or answer.get("kind", ""))).inc()
        return answer

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: Manifest | None = None,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Manifest:
        assert self._session is not None
        given = {"Content-Type": "application/json", **(headers or {}), **self._authorized()}
        data = None if body is None else json.dumps(body, separators=(",", ":"))
        try:
            async with self._session.request(
                method, self._server + path, params=query, data=data, headers=given
            ) as response:
                raw = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, f"{method} {path}: {error or type(error).__name__}") from error
        self.answered = time.monotonic()
        if response.status >= 400:  # noqa: PLR2004 - HTTP's errors
            raise ApiError(response.status, f"{method} {path}: {_message(raw)}")
        answer: Manifest = json.loads(raw)
        return answer

    def _authorized(self) -> dict[str, str]:
        if time.monotonic() - self._login_at > LOGIN_SECONDS:
            self._login_at = time.monotonic()
            self._authorization = login().as_http_headers()
        return self._authorization


def login() -> ConnectionInfo:
    """Return how to reach the API server: as the pod's service account, else by the kubeconfig. Raises CannotStart."""
    settings = kopf.OperatorSettings()
    for way in (kopf.login_with_service_account, kopf.login_with_kubeconfig):
        info = way(settings=settings)
        if info is not None:
            return info
    raise CannotStart(
        "there is no API server to talk to", hint="Run in a pod with a service account, or set KUBECONFIG"
    )


def _message(raw: bytes) -> str:
    try:
        return str(json.loads(raw)["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return raw[:200].decode(errors="replace")


def _nobody_leads() -> None:
    raise ApiError(0, "this replica does not lead")
