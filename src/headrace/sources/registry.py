"""Client of an OCI registry: GET requests with authentication, for manifests and blobs.

Protocols: the OCI distribution specification 1.1 (sections Pulling manifests and Pulling blobs), and the token
authentication of the Docker registry (distribution documentation, "Token authentication"). The client is our own,
because the library `oras` (0.2) has no timeouts and no ranges, reads manifests of any size, and follows redirects to
any address; here the connections are those of `headrace.sources.connections`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from headrace.errors import SourceUnreachable
from headrace.sources.connections import basic, get, refused
from headrace.sources.transfer import Interrupted, reason_of

PLAIN_HTTP = "OCI_PLAIN_HTTP"
"""Registries (`HOST` or `HOST:PORT`, separated by commas) that are read over http:// instead of https://."""
AUTH_CONFIG = "DOCKER_AUTH_CONFIG"
"""Content of a Docker configuration with credentials: `{"auths": {"REGISTRY": {"auth": "…"}}}`. Without it, the file
`config.json` in `$DOCKER_CONFIG` (default `~/.docker`) is read."""
MAX_CONFIG_BYTES = 1024 * 1024
MAX_TOKEN_BYTES = 64 * 1024
READ_SECONDS = 60.0
"""Time for reading a manifest or a token: a registry that sends byte by byte must not hold the fetch."""
_CHUNK_BYTES = 64 * 1024


@dataclass(slots=True)
class Registry:
    """A registry, and the authorization that it accepted."""

    host: str
    """`HOST` or `HOST:PORT`."""
    allow_loopback: bool
    _authorization: str | None = field(default=None, repr=False)

    @contextlib.contextmanager
    def get(self, path: str, headers: Mapping[str, str]) -> Iterator[http.client.HTTPResponse]:
        """Request a path, and yield the response. A challenge is answered once, also when a token has expired.

        Raises a SourceError; the caller checks the status.
        """
        with contextlib.ExitStack() as stack:
            response = stack.enter_context(self._get(path, headers))
            if response.status == http.client.UNAUTHORIZED:
                challenge = response.headers.get("www-authenticate", "")
                stack.close()
                self._authorization = self._answer(challenge)
                response = stack.enter_context(self._get(path, headers))
            yield response

    def _get(
        self, path: str, headers: Mapping[str, str]
    ) -> contextlib.AbstractContextManager[http.client.HTTPResponse]:
        scheme = "http" if self._plain_http else "https"
        return get(
            f"{scheme}://{self.host}{path}",
            headers,
            allow_loopback=self.allow_loopback,
            authorization=self._authorization,
            plain_http=self._plain_http,
        )

    @property
    def _plain_http(self) -> bool:
        return self.host in os.environ.get(PLAIN_HTTP, "").replace(" ", "").split(",")

    def _answer(self, challenge: str) -> str | None:
        """Return the authorization for a challenge of the registry: the credentials, or a token for them."""
        scheme, _, rest = challenge.partition(" ")
        credentials = _credentials(self.host)
        parameters = dict(re.findall(r'([a-z]+)="([^"]*)"', rest))
        if scheme.lower() != "bearer" or "realm" not in parameters:
            return credentials
        realm = parameters["realm"]
        query = urlencode({name: parameters[name] for name in ("service", "scope") if name in parameters})
        url = f"{realm}{'&' if '?' in realm else '?'}{query}"
        with get(
            url, {}, allow_loopback=self.allow_loopback, authorization=credentials, plain_http=self._plain_http
        ) as response:
            if response.status != http.client.OK:
                raise refused(response, self.host, "a token", hint=f"Check the credentials ({AUTH_CONFIG})")
            body = read(response, MAX_TOKEN_BYTES, self.host)
        return f"Bearer {self._token(body)}"

    def _token(self, body: bytes) -> str:
        try:
            answer = json.loads(body)
            token = answer.get("token") or answer["access_token"]
            if re.fullmatch(r"[!-~]+", token):
                return str(token)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass
        raise SourceUnreachable(f"{self.host} gives no token", hint="Check the registry's authentication")


def read(response: http.client.HTTPResponse, limit: int, host: str) -> bytes:
    """Return a body of at most `limit` bytes. Raises SourceUnreachable; Interrupted if it is not received in time."""
    deadline, body = time.monotonic() + READ_SECONDS, bytearray()
    try:
        while chunk := response.read1(_CHUNK_BYTES):
            body += chunk
            if len(body) > limit:
                raise SourceUnreachable(f"{host} sends more than {limit} bytes", hint="Check the URI")
            if time.monotonic() > deadline:
                raise Interrupted(f"{host} sends too slowly", hint="It is retried")
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(f"the connection to {host} failed: {reason_of(error)}", hint="It is retried") from error
    return bytes(body)


def _credentials(host: str) -> str | None:
    """Return the authorization of the Docker configuration for a registry; None if it has none."""
    try:
        entries = json.loads(_configuration()).get("auths", {})
        entry = entries.get(host) or entries.get(f"https://{host}") or {}
        if auth := entry.get("auth"):
            return f"Basic {auth}" if re.fullmatch(r"[A-Za-z0-9+/]+=*", auth) else None
        return basic(entry["username"], entry["password"]) if "username" in entry else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        # Without the cause, because that could quote the configuration.
        raise SourceUnreachable(
            "the Docker configuration is not readable", hint=f'Set {AUTH_CONFIG} to {{"auths": {{"REGISTRY": …}}}}'
        ) from None


def _configuration() -> str:
    if (text := os.environ.get(AUTH_CONFIG)) is not None:
        return text
    directory = os.environ.get("DOCKER_CONFIG") or f"{os.environ.get('HOME', '')}/.docker"
    try:
        with Path(directory, "config.json").open(encoding="utf-8") as file:
            return file.read(MAX_CONFIG_BYTES)
    except OSError:
        return "{}"
