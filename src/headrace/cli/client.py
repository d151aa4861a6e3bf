"""Client of the instance's API on its Unix socket: Kubernetes' paths and objects over HTTP/1.1."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from typing_extensions import override

from headrace.api.kinds import Kind
from headrace.errors import (
    SYSTEM_FAULTS,
    FieldError,
    HeadraceError,
    InvalidResource,
    NotFound,
    NotRunning,
    shortened,
)
from headrace.kinds.registry import KINDS
from headrace.local.home import InstanceHome, home_fault
from headrace.unix_socket import address_of

DEFAULT_NAMESPACE = "default"
"""Default of `-n`."""
DEFAULT_INSTANCE = "default"
"""Default of `--instance`."""
RESPONSE_SECONDS = 30.0
"""Timeout of a request; watches and logs have none."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP connection over a Unix socket."""

    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with address_of(self._path) as address:
            self.sock.connect(address)


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of applying an object."""

    manifest: dict[str, Any]
    verb: str
    """`created`, `configured` or `unchanged`, like kubectl's."""


class ApiClient:
    """Client of one instance. Methods raise `NotRunning` if it is not running, else the error of the response."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._log = socket_path.parent / "logs" / "headrace.log"

    def get(self, kind: Kind, namespace: str | None, name: str | None = None) -> dict[str, Any]:
        """Return an object, or without a name the list of a namespace (None: all namespaces)."""
        return self._json("GET", path_of(kind, namespace, name), absent=_listing(kind, namespace))

    def apply(self, kind: Kind, manifest: dict[str, Any], *, dry_run: bool = False) -> Applied:
        """Create or update the object (server-side apply)."""
        metadata = manifest["metadata"]
        path = path_of(kind, metadata["namespace"], metadata["name"]) + ("?dryRun=All" if dry_run else "")
        response = self._request("PATCH", path, manifest, content_type="application/apply-patch+json")
        applied = json.loads(_read(response))
        if response.status == http.client.CREATED:
            return Applied(applied, "created")
        changed = response.headers.get("x-headrace-changed", "true") == "true"
        return Applied(applied, "configured" if changed else "unchanged")

    def scale(self, kind: Kind, namespace: str, name: str, replicas: int) -> None:
        """Set spec.replicas."""
        path = path_of(kind, namespace, name) + "/scale"
        response = self._request(
            "PATCH",
            path,
            {"spec": {"replicas": replicas}},
            content_type="application/merge-patch+json",
            absent=_listing(kind, namespace),
        )
        _read(response)

    def delete(self, kind: Kind, namespace: str, name: str) -> None:
        """Delete an object and what it owns."""
        _read(self._request("DELETE", path_of(kind, namespace, name), absent=_listing(kind, namespace)))

    def watch(self, kind: Kind, namespace: str | None) -> Iterator[dict[str, Any]]:
        """Return `{"type": …, "object": …}`: first the existing objects (as ADDED), then every later change."""
        response = self._request("GET", path_of(kind, namespace) + "?watch=true", timeout=None)
        return (json.loads(line) for line in _lines(response))

    def logs(self, namespace: str, pod: str, *, follow: bool, tail: int | None, previous: bool) -> Iterator[bytes]:
        """Yield the pod's log in chunks as they arrive."""
        query = {"follow": str(follow).lower(), "previous": str(previous).lower()}
        if tail is not None:
            query["tailLines"] = str(tail)
        path = f"/api/v1/namespaces/{quote(namespace, '')}/pods/{quote(pod, '')}/log?{urlencode(query)}"
        timeout = None if follow else RESPONSE_SECONDS
        response = self._request("GET", path, timeout=timeout, absent=_listing(KINDS["Pod"], namespace))
        with _breaking("the log"):
            while chunk := response.read1(65536):
                yield chunk

    def instance(self) -> dict[str, Any]:
        """Return the instance's description: instance, pid, version, endpoint, started, home."""
        return self._json("GET", "/headrace/v1/instance")

    def shutdown(self) -> None:
        """Request the instance to stop; the response arrives before it stops."""
        _read(self._request("POST", "/headrace/v1/shutdown"))

    def _json(self, method: str, path: str, *, absent: str = "") -> dict[str, Any]:
        body: dict[str, Any] = json.loads(_read(self._request(method, path, absent=absent)))
        return body

    def _request(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        content_type: str = "application/json",
        timeout: float | None = RESPONSE_SECONDS,
        absent: str = "",
    ) -> http.client.HTTPResponse:
        """Send a request and return the response when its head arrives. `absent`: hint for an object not found."""
        connection = _UnixConnection(self._socket_path, timeout)
        try:
            payload = None if body is None else json.dumps(body).encode()
            connection.request(method, path, payload, {"Content-Type": content_type})
            response = connection.getresponse()
        except (FileNotFoundError, ConnectionError) as error:
            raise not_running(self._socket_path.parent) from error
        except TimeoutError as error:
            raise NotRunning(
                f"the instance did not respond within {RESPONSE_SECONDS:.0f} s",
                hint=f"See its log ({self._log}), or stop it with `headrace down`",
            ) from error
        except OSError as error:
            raise home_fault(error, what=f"cannot connect to the instance at {shortened(self._socket_path)}") from error
        if response.status >= http.client.BAD_REQUEST:
            raise error_of(response.status, _read(response), log=self._log, absent=absent)
        return response


def _read(response: http.client.HTTPResponse) -> bytes:
    with _breaking("the response"):
        return response.read()


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the lines of a streamed response; an incomplete last line is dropped."""
    with _breaking("the response"):
        for line in response:
            if line.endswith(b"\n") and line.strip():
                yield line


@contextlib.contextmanager
def _breaking(what: str) -> Iterator[None]:
    """Raise NotRunning if the connection breaks, because the instance was killed."""
    try:
        yield
    except (http.client.HTTPException, OSError) as error:
        raise NotRunning(f"the instance exited while it sent {what}", hint="Start it with `headrace up`") from error


def instance_option(name: str) -> str:
    """Return the option that selects an instance, empty for the default one."""
    return "" if name == DEFAULT_INSTANCE else f" --instance {name}"


def not_running(directory: Path) -> NotRunning:
    """Return an error that lists the running instances, because the option may be wrong or missing."""
    name, root = directory.name, directory.parent.parent
    others = sorted(path.name for path in directory.parent.glob("*") if path.name != name)
    running = [other for other in others if _runs(InstanceHome(root, other))]
    hint = f"Start it with `headrace up{instance_option(name)}`"
    if running:
        hint += f", or use --instance with a running one: {', '.join(running)}"
    return NotRunning(f"the instance {name!r} is not running", hint=hint)


def _runs(home: InstanceHome) -> bool:
    with contextlib.suppress(OSError):  # a directory that this user may not read cannot be used either
        return home.is_running()
    return False


def path_of(kind: Kind, namespace: str | None, name: str | None = None) -> str:
    """Return the API path of an object, of a namespace's list, or (namespace None) of the list of all."""
    group = f"/apis/{kind.api_version}" if "/" in kind.api_version else f"/api/{kind.api_version}"
    scope = f"/namespaces/{quote(namespace, '')}" if namespace is not None else ""
    return f"{group}{scope}/{kind.plural}" + (f"/{quote(name, '')}" if name is not None else "")


def _listing(kind: Kind, namespace: str | None) -> str:
    option = "" if namespace in (None, DEFAULT_NAMESPACE) else f" -n {namespace}"
    return f"`headrace get {kind.plural}{option}` lists the {kind.plural}"


def error_of(status: int, body: bytes, *, log: Path, absent: str = "") -> HeadraceError:
    """Return the exception for a Kubernetes `Status` response.

    The message of a client error contains its remedy; for a server error, the hint names the instance's log.
    """
    try:
        answer = json.loads(body)
        message = str(answer["message"])
    except (ValueError, KeyError, TypeError):
        return HeadraceError(f"the instance returned {status}", hint=f"See its log: {log}")
    causes = answer.get("details", {}).get("causes", [])
    if causes:
        faults = tuple(FieldError(cause.get("field", ""), cause.get("message", "")) for cause in causes)
        return InvalidResource(message, causes=faults)
    if (fault := SYSTEM_FAULTS.get(answer.get("reason"))) is not None:
        return fault(message)
    if status == http.client.NOT_FOUND:
        return NotFound(message, hint=absent)
    if status >= http.client.INTERNAL_SERVER_ERROR:
        return HeadraceError(message, hint=f"See the instance's log: {log}")
    return HeadraceError(message)
