"""The instance's API over its Unix socket: Kubernetes' paths and objects, plain HTTP/1.1."""

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
from headrace.local.unix_socket import address_of

DEFAULT_NAMESPACE = "default"
"""What `-n` is when it is not given."""
DEFAULT_INSTANCE = "default"
"""What `--instance` is when it is not given."""
ANSWER_SECONDS = 30.0
"""An answer that takes longer than this is a fault of the instance; watches and logs wait without a limit."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

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
    """What applying an object did."""

    manifest: dict[str, Any]
    verb: str
    """`created`, `configured` or `unchanged`, as kubectl says it."""


class ApiClient:
    """One instance's API. Methods raise `NotRunning` when nobody listens, else the error that the API answered."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._log = socket_path.parent / "logs" / "headrace.log"

    def get(self, kind: Kind, namespace: str | None, name: str | None = None) -> dict[str, Any]:
        """Return an object, or without a name the list of a namespace (None: of all)."""
        return self._json("GET", path_of(kind, namespace, name), absent=_listing(kind, namespace))

    def apply(self, kind: Kind, manifest: dict[str, Any], *, dry_run: bool = False) -> Applied:
        """Make the object be as the manifest says (server-side apply)."""
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
        """Return `{"type": …, "object": …}`: what is there first (as ADDED), then every change from this call on."""
        response = self._request("GET", path_of(kind, namespace) + "?watch=true", timeout=None)
        return (json.loads(line) for line in _lines(response))

    def logs(self, namespace: str, pod: str, *, follow: bool, tail: int | None, previous: bool) -> Iterator[bytes]:
        """Yield the pod's log as it comes."""
        query = {"follow": str(follow).lower(), "previous": str(previous).lower()}
        if tail is not None:
            query["tailLines"] = str(tail)
        path = f"/api/v1/namespaces/{quote(namespace, '')}/pods/{quote(pod, '')}/log?{urlencode(query)}"
        timeout = None if follow else ANSWER_SECONDS
        response = self._request("GET", path, timeout=timeout, absent=_listing(KINDS["Pod"], namespace))
        with _ending("the log"):
            while chunk := response.read1(65536):
                yield chunk

    def instance(self) -> dict[str, Any]:
        """Return what the instance says of itself: instance, pid, version, endpoint, started, home."""
        return self._json("GET", "/headrace/v1/instance")

    def shutdown(self) -> None:
        """Ask the instance to stop; it answers before it does."""
        _read(self._request("POST", "/headrace/v1/shutdown"))

    def _json(self, method: str, path: str, *, absent: str = "") -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(_read(self._request(method, path, absent=absent)))
        return answer

    def _request(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        content_type: str = "application/json",
        timeout: float | None = ANSWER_SECONDS,
        absent: str = "",
    ) -> http.client.HTTPResponse:
        """Send a request and return the answer once it begins. `absent`: what to do where the object is not there."""
        connection = _UnixConnection(self._socket_path, timeout)
        try:
            payload = None if body is None else json.dumps(body).encode()
            connection.request(method, path, payload, {"Content-Type": content_type})
            response = connection.getresponse()
        except (FileNotFoundError, ConnectionError) as error:
            raise _not_running(self._socket_path.parent) from error
        except TimeoutError as error:
            raise NotRunning(
                f"the instance did not answer within {ANSWER_SECONDS:.0f} s",
                hint=f"Look at its log ({self._log}), or stop it with `headrace down`",
            ) from error
        except OSError as error:
            raise home_fault(error, what=f"cannot reach the instance by {shortened(self._socket_path)}") from error
        if response.status >= http.client.BAD_REQUEST:
            raise error_of(response.status, _read(response), log=self._log, absent=absent)
        return response


def _read(response: http.client.HTTPResponse) -> bytes:
    with _ending("its answer"):
        return response.read()


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield what is streamed, line by line, to its end; a last line that was cut off is dropped."""
    with _ending("its answer"):
        for line in response:
            if line.endswith(b"\n") and line.strip():
                yield line


@contextlib.contextmanager
def _ending(what: str) -> Iterator[None]:
    """Raise NotRunning for a connection that breaks: the instance was killed."""
    try:
        yield
    except (http.client.HTTPException, OSError) as error:
        raise NotRunning(f"the instance ended in the midst of {what}", hint="Start it with `headrace up`") from error


def instance_option(name: str) -> str:
    """Return the option with which a command speaks to that instance."""
    return "" if name == DEFAULT_INSTANCE else f" --instance {name}"


def _not_running(directory: Path) -> NotRunning:
    """Return the error that names those instances that do run: the option may be wrong, or forgotten."""
    name, root = directory.name, directory.parent.parent
    others = sorted(path.name for path in directory.parent.glob("*") if path.name != name)
    running = [other for other in others if _runs(InstanceHome(root, other))]
    hint = f"Start it with `headrace up{instance_option(name)}`"
    if running:
        hint += f", or use --instance with one that is running: {', '.join(running)}"
    return NotRunning(f"the instance {name!r} is not running", hint=hint)


def _runs(home: InstanceHome) -> bool:
    with contextlib.suppress(OSError):  # what this user may not look into is not to be used either
        return home.is_running()
    return False


def path_of(kind: Kind, namespace: str | None, name: str | None = None) -> str:
    """Return the API path of an object, of a namespace's list, or (namespace None) of the list of all."""
    group = f"/apis/{kind.api_version}" if "/" in kind.api_version else f"/api/{kind.api_version}"
    scope = f"/namespaces/{quote(namespace, '')}" if namespace is not None else ""
    return f"{group}{scope}/{kind.plural}" + (f"/{quote(name, '')}" if name is not None else "")


def _listing(kind: Kind, namespace: str | None) -> str:
    option = "" if namespace in (None, DEFAULT_NAMESPACE) else f" -n {namespace}"
    return f"`headrace get {kind.plural}{option}` lists what is there"


def error_of(status: int, body: bytes, *, log: Path, absent: str = "") -> HeadraceError:
    """Return the exception for a Kubernetes `Status` answer.

    Its message says what the one who asked can do; a fault of the instance itself is for who reads its log.
    """
    try:
        answer = json.loads(body)
        message = str(answer["message"])
    except (ValueError, KeyError, TypeError):
        return HeadraceError(f"the instance answered {status}", hint=f"Look at its log: {log}")
    causes = answer.get("details", {}).get("causes", [])
    if causes:
        faults = tuple(FieldError(cause.get("field", ""), cause.get("message", "")) for cause in causes)
        return InvalidResource(message, causes=faults)
    if (fault := SYSTEM_FAULTS.get(answer.get("reason"))) is not None:
        return fault(message)
    if status == http.client.NOT_FOUND:
        return NotFound(message, hint=absent)
    if status >= http.client.INTERNAL_SERVER_ERROR:
        return HeadraceError(message, hint=f"Look at the instance's log: {log}")
    return HeadraceError(message)
