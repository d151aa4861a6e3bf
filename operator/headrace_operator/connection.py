"""Address and credentials of the API server, and HTTP sessions with it.

They come from the service account's files in a pod, and from a kubeconfig elsewhere. The kubelet renews a projected
token about every hour: each request reads the present token, so sessions stay usable.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import aiohttp
import kopf
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse

from headrace.errors import CannotStart

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
KEEP_ALIVE_SECONDS = 60.0
"""Of idle connections: a wake must not wait for a TLS handshake. The server closes them after 90 s."""
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 10.0
"""Timeout of a request: an API server that takes longer counts as unavailable, and the loop retries."""

Answered = Callable[[ClientRequest], None]


class Connection:
    """Address and credentials. `answered_at` is the monotonic time of the last response to any session."""

    def __init__(self, info: kopf.ConnectionInfo, pod_name: str, token_file: Path | None = None) -> None:
        self.server = info.server.rstrip("/")
        self.answered_at = time.monotonic()
        self._info = info
        self._user_agent = f"headrace-operator/{version('headrace')} ({pod_name})"
        self._token_file = token_file
        self._token = info.token
        self._token_of: float | None = None

    @classmethod
    def find(cls, pod_name: str) -> Connection:
        """Return the connection of this pod, or of the kubeconfig. Raises CannotStart without either."""
        settings = kopf.OperatorSettings()
        token_file = SERVICE_ACCOUNT / "token"
        if token_file.exists():
            info = kopf.login_with_service_account(settings=settings)
            assert info is not None
            return cls(_by_address(info), pod_name, token_file)
        try:
            info = kopf.login_with_kubeconfig(settings=settings)
        except (OSError, KeyError, kopf.LoginError) as error:
            raise CannotStart(f"the kubeconfig cannot be used: {error!r}", hint="See KUBECONFIG") from error
        if info is None:
            raise CannotStart(
                "no API server is configured", hint="Run in a pod with a service account, or set KUBECONFIG"
            )
        return cls(info, pod_name)

    def session(self, answered: Answered | None = None) -> aiohttp.ClientSession:
        """Return a new session, to be closed by the caller. `answered` is called with each answered request."""

        async def signed(request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
            if (token := self.token()) is not None:
                request.headers["Authorization"] = f"{self._info.scheme or 'Bearer'} {token}"
            response = await send(request)
            self.answered_at = time.monotonic()
            if answered is not None:
                answered(request)
            return response

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ssl=self._info.as_ssl_context(), keepalive_timeout=KEEP_ALIVE_SECONDS
            ),
            headers={**self._info.as_http_headers(), "User-Agent": self._user_agent},
            proxy=self._info.proxy_url,
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS),
            middlewares=(signed,),
        )

    def token(self) -> str | None:
        """Return the token, read again when its file has changed."""
        if self._token_file is not None:
            try:
                changed = self._token_file.stat().st_mtime
                if changed != self._token_of:
                    self._token, self._token_of = self._token_file.read_text(encoding="ascii").strip(), changed
            except OSError:
                return self._token  # it is being replaced: the previous one is valid for minutes more
        return self._token


def _by_address(info: kopf.ConnectionInfo) -> kopf.ConnectionInfo:
    """Use the address from the pod's environment, so that the operator does not depend on the cluster's DNS."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        return info
    address = f"[{host}]" if ":" in host else host
    return kopf.ConnectionInfo(server=f"https://{address}:{port}", ca_path=info.ca_path, token=info.token)
