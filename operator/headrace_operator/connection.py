"""Where the API server is, who we are there, and the HTTP sessions that speak to it.

In a pod the service account's files say so, outside a kubeconfig. A projected token is renewed by the kubelet about
every hour: each request is signed with what the file holds when it is sent, so no session has to be made anew for it.
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
"""An idle connection is kept: a wake must not wait for a TLS handshake. The server closes it after 90 s."""
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 10.0
"""For any request of ours: an API server that takes longer is away, and the loop tries again."""

Answered = Callable[[ClientRequest], None]


class Connection:
    """The API server's address and our credentials. `heard` is the monotonic time of its last answer to any session."""

    def __init__(self, info: kopf.ConnectionInfo, pod_name: str, token_file: Path | None = None) -> None:
        self.server = info.server.rstrip("/")
        self.heard = time.monotonic()
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
                "there is no API server to talk to", hint="Run in a pod with a service account, or set KUBECONFIG"
            )
        return cls(info, pod_name)

    def session(self, answered: Answered | None = None) -> aiohttp.ClientSession:
        """Return a new session, which whoever asked closes. `answered` is told of each request that was."""

        async def signed(request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
            if (token := self.token()) is not None:
                request.headers["Authorization"] = f"{self._info.scheme or 'Bearer'} {token}"
            response = await send(request)
            self.heard = time.monotonic()
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
                return self._token  # it is being replaced: the old one is good for minutes more
        return self._token


def _by_address(info: kopf.ConnectionInfo) -> kopf.ConnectionInfo:
    """Use the address that the kubelet gives to every pod: the cluster's DNS is one thing less that must work."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        return info
    address = f"[{host}]" if ":" in host else host
    return kopf.ConnectionInfo(server=f"https://{address}:{port}", ca_path=info.ca_path, token=info.token)
