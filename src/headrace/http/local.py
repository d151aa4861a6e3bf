"""Host and Origin checks of servers on the loopback interface: requests of other sites' web pages are rejected.

A browser on this machine can reach the loopback interface from any page. A page whose name resolves to 127.0.0.1 (DNS
rebinding) can also read the responses: its requests have its own name as `Host`. Any page can send `text/plain`
anywhere without a preflight: those requests have its `Origin`. Other programs send neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from headrace import environment
from headrace.http.errors import HostNotAllowed, OriginNotAllowed, RequestError

MAX_ACCEPTED = 64
"""Accepted values of `Host` that are cached: each client sends the same one in all its requests."""
_WHERE = " in its environment (in local mode that of `headrace up`) and start it again"


class LocalOnly:
    """Accepts `localhost`, IP addresses and the given names as Host, and pages of this machine and the given ones.

    `applies` returns for a path whether the check applies now.
    """

    def __init__(
        self, hosts: Iterable[str] = (), origins: Iterable[str] = (), applies: Callable[[str], bool] = lambda _: True
    ) -> None:
        self._applies = applies
        self._hosts = frozenset({"localhost", *(host.lower() for host in hosts)})
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)
        self._accepted: set[bytes] = set()

    def objection(self, path: str, host: bytes | None, origin: bytes | None) -> RequestError | None:
        """Return why the request is rejected, or None. Without a Host (HTTP/1.0) it is not from a browser."""
        if (origin is None and host in self._accepted) or not self._applies(path):
            return None
        if host is not None and host not in self._accepted:
            name = _name(b"//" + host)
            if not (name in self._hosts or _is_address(name)):
                return HostNotAllowed(
                    f"without API keys this server serves only this machine, and {_shown(host)!r} is not its name",
                    hint=f"Use localhost or the IP address, or add the name to {environment.ALLOWED_HOSTS}{_WHERE}",
                )
            if len(self._accepted) < MAX_ACCEPTED:
                self._accepted.add(host)
        if origin is not None and not self._is_local(origin):
            return OriginNotAllowed(
                f"without API keys this server does not serve web pages of {_shown(origin)!r}",
                hint=f"If the page may use the models of this machine, add the origin to "
                f"{environment.ALLOWED_ORIGINS}{_WHERE}",
            )
        return None

    def _is_local(self, origin: bytes) -> bool:
        if origin.decode("latin-1").lower() in self._origins:
            return True
        name = _name(origin)
        return origin.lower().startswith((b"http://", b"https://")) and (name in self._hosts or is_loopback(name))


def listed(text: str | None) -> tuple[str, ...]:
    """Parse a comma-separated list of an environment variable."""
    return tuple(filter(None, (word.strip() for word in (text or "").split(","))))


def is_loopback(address: str) -> bool:
    """Return whether the address is reachable from this machine only."""
    return _is_address(address) and ip_address(address).is_loopback


def _name(url: bytes) -> str:
    try:
        return urlsplit(url.decode("latin-1")).hostname or ""
    except ValueError:  # for example brackets without an address
        return ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _shown(value: bytes) -> str:
    return value.decode("latin-1")[:200]
