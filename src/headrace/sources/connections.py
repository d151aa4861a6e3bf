"""HTTP connections to hosts that users name: never to loopback or link-local addresses, also after a redirect.

A name is resolved here, all its addresses are checked, and the connection uses a checked address: the name is not
resolved a second time, so DNS rebinding has no effect. The same applies to every redirect. With a proxy, the proxy
resolves names, so only a URL's host that is an address or `localhost` is checked, and the proxy must check names.
Private addresses are allowed, because mirrors have them.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from headrace.errors import SourceNotAllowed, SourceUnreachable
from headrace.sources.location import redacted
from headrace.sources.transfer import Interrupted, reason_of

MAX_REDIRECTS = 5
TIMEOUT_SECONDS = 30
"""Timeout of a connection and of each read; the download is then retried."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_PATH_CHARACTERS = "/%:@!$&'()*+,;=~?"
_PROXY_PORT = 80
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_V4_COMPATIBLE = ipaddress.IPv6Network("::/96")


@dataclass(frozen=True, slots=True)
class Url:
    """The URL of a request: the source's, or of a redirect."""

    host: str
    port: int
    target: str
    """Path and query for the request line."""
    authorization: str | None
    """From `user:password@`, if the URL has it."""
    shown: str
    """The URL without secrets, for messages."""
    encrypted: bool

    @classmethod
    def parse(cls, url: str, *, plain_http: bool = False) -> Self:
        """Return the parts. Raises a SourceError, also for http:// without `plain_http`."""
        try:
            parts = urlsplit(url)
            encrypted = parts.scheme == "https"
            port = parts.port or (http.client.HTTPS_PORT if encrypted else http.client.HTTP_PORT)
            host = parts.hostname or ""
            host.encode("idna")
        except ValueError as error:
            raise SourceUnreachable(f"{redacted(url)} is not a URL: {error}", hint="Check the URI") from error
        if not encrypted and not (plain_http and parts.scheme == "http"):
            raise SourceNotAllowed(f"a redirect leads to {parts.scheme}://", hint="Give the final https:// URI")
        if not host:
            raise SourceUnreachable(f"{redacted(url)} has no host", hint="Check the URI")
        target = quote(parts.path or "/", _PATH_CHARACTERS)
        if parts.query:
            target += "?" + quote(parts.query, _PATH_CHARACTERS)
        return cls(host, port, target, _basic_of(parts), redacted(url), encrypted)


def basic(user: str, password: str) -> str:
    """Return the value of `Authorization` for a user."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _basic_of(parts: SplitResult) -> str | None:
    return None if parts.username is None else basic(unquote(parts.username), unquote(parts.password or ""))


@contextlib.contextmanager
def get(
    uri: str,
    headers: Mapping[str, str],
    *,
    allow_loopback: bool,
    authorization: str | None = None,
    plain_http: bool = False,
) -> Iterator[http.client.HTTPResponse]:
    """Request the URI, follow redirects, and yield the response of any other status. Raises a SourceError.

    Credentials (`authorization`, or `user:password@`) of the first host are not sent to another one.
    """
    url = first = Url.parse(uri, plain_http=plain_http)
    for _ in range(MAX_REDIRECTS + 1):
        with contextlib.closing(_connection(url, allow_loopback=allow_loopback)) as connection:
            same_host = (url.host, url.port, url.encrypted) == (first.host, first.port, first.encrypted)
            response = _request(connection, url, headers, (authorization or first.authorization) if same_host else None)
            if response.status not in _REDIRECTS:
                yield response
                return
            uri = urljoin(uri, response.headers.get("location", ""))
            url = Url.parse(uri, plain_http=plain_http)
    raise SourceUnreachable(f"{first.shown} redirects more than {MAX_REDIRECTS} times", hint="Give the final URI")


def refused(response: http.client.HTTPResponse, host: str, shown: str, *, hint: str) -> SourceUnreachable:
    """Return the error for a response with an unexpected status; Interrupted if a retry may succeed soon."""
    kind = Interrupted if response.status in _BUSY else SourceUnreachable
    reason = re.sub(r"[^ -~]", "", response.reason)[:100]
    return kind(f"{host} returned {response.status} {reason} for {shown}", hint=hint)


def _connection(url: Url, *, allow_loopback: bool) -> http.client.HTTPConnection:
    if not url.encrypted:
        plain = http.client.HTTPConnection(url.host, url.port, timeout=TIMEOUT_SECONDS)
        try:
            plain.sock = _dial(url, allow_loopback=allow_loopback)
        except OSError as error:
            raise _failed(url, error) from error
        return plain
    proxy = None if proxy_bypass(url.host) else getproxies().get("https")
    context = ssl.create_default_context()
    if proxy is not None:
        if (address := _literal(url.host)) is not None:
            _check(address, url.host, allow_loopback=allow_loopback)
        return _proxied(proxy, url, context)
    connection = http.client.HTTPSConnection(url.host, url.port, timeout=TIMEOUT_SECONDS, context=context)
    try:
        raw = _dial(url, allow_loopback=allow_loopback)
        connection.sock = raw
        connection.sock = context.wrap_socket(raw, server_hostname=url.host)
    except OSError as error:
        connection.close()
        raise _failed(url, error) from error
    return connection


def _proxied(proxy: str, url: Url, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    credentials = _basic_of(through)
    connection = http.client.HTTPSConnection(
        through.hostname or "", through.port or _PROXY_PORT, timeout=TIMEOUT_SECONDS, context=context
    )
    connection.set_tunnel(url.host, url.port, {"Proxy-Authorization": credentials} if credentials else {})
    return connection


def _dial(url: Url, *, allow_loopback: bool) -> socket.socket:
    """Connect to the first reachable address, after all addresses are checked."""
    addresses = [str(info[4][0]) for info in socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)]
    for address in addresses:
        _check(address, url.host, allow_loopback=allow_loopback)
    last: OSError = ConnectionError("no address")
    for address in addresses:
        try:
            return socket.create_connection((address, url.port), timeout=TIMEOUT_SECONDS)
        except OSError as error:
            last = error
    raise last


def _literal(host: str) -> str | None:
    """Return the address of a host that is an address in any notation (such as 127.1), or None for a name."""
    if host == "localhost" or host.endswith(".localhost"):
        return "127.0.0.1"
    try:
        return str(socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)[0][4][0])
    except socket.gaierror:
        return None


def _check(address: str, host: str, *, allow_loopback: bool) -> None:
    ip = _reached(ipaddress.ip_address(address.partition("%")[0]))
    forbidden = ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast
    if forbidden and not (allow_loopback and ip.is_loopback):
        found = f"{host} is" if host == str(ip) else f"{host} is {ip},"
        mirror = ", or `headrace up --allow-loopback-sources` for a local mirror" if ip.is_loopback else ""
        raise SourceNotAllowed(
            f"{found} a loopback, link-local, unspecified or multicast address", hint=f"Use another host{mirror}"
        )


def _reached(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the IPv4 address that an IPv6 address embeds (mapped, compatible, 6to4, NAT64), else the address."""
    if not isinstance(ip, ipaddress.IPv6Address):
        return ip
    embedded = ip.ipv4_mapped or ip.sixtofour
    if embedded is None and (ip in _NAT64 or (ip in _V4_COMPATIBLE and int(ip) > 1)):  # 0 and 1 are IPv6's own
        embedded = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    return embedded or ip


def _request(
    connection: http.client.HTTPConnection, url: Url, headers: Mapping[str, str], authorization: str | None
) -> http.client.HTTPResponse:
    sent = {"User-Agent": "headrace-fetch", "Accept-Encoding": "identity", **headers}
    if authorization is not None:
        sent["Authorization"] = authorization
    try:
        connection.request("GET", url.target, headers=sent)
        return connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise _failed(url, error) from error


def _failed(url: Url, error: Exception) -> SourceUnreachable:
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"{url.host} is not trusted: {error.verify_message}"
        return SourceUnreachable(why, hint="Check the CA bundle (SSL_CERT_FILE)")
    return Interrupted(f"cannot reach {url.host}: {reason_of(error)}", hint="Check the URI and the proxy settings")
