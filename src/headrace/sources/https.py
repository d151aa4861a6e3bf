"""https://…: a download that goes on where it was cut, and never talks to this machine or its link.

The address is checked where it matters: on the connected socket, for every hop of a redirect. A name that resolves to
an inside address, now or at the second look, is refused. Behind a proxy the peer is the proxy, so there the URL's host
is checked when it is an address, and the proxy decides about names.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import socket
import ssl
from pathlib import Path
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from headrace.errors import SourceNotAllowed, SourceUnreachable
from headrace.sources.transfer import Transfer

MAX_REDIRECTS = 5
TIMEOUT_SECONDS = 30
"""For a connection and for each read: a source that is silent for so long is tried again."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


def fetch_https(uri: str, transfer: Transfer, *, allow_loopback: bool) -> None:
    """Download into the transfer, from where an earlier try was cut if the server still has the same file."""
    url = uri
    for _ in range(MAX_REDIRECTS + 1):
        parts = urlsplit(url)
        if parts.scheme != "https":
            raise SourceNotAllowed(f"a redirect leads to {parts.scheme}://", hint="Give the final https:// URI")
        connection = _connect(parts, allow_loopback=allow_loopback)
        try:
            response = _get(connection, parts, transfer)
            if response.status not in _REDIRECTS:
                _receive(response, parts, transfer)
                return
            url = urljoin(url, response.headers.get("location", ""))
        except (OSError, http.client.HTTPException) as error:
            raise SourceUnreachable(f"{parts.hostname}: {_reason(error)}", hint="It is tried again") from error
        finally:
            connection.close()
    raise SourceUnreachable(f"more than {MAX_REDIRECTS} redirects")


def _connect(parts: SplitResult, *, allow_loopback: bool) -> http.client.HTTPSConnection:
    host, port = parts.hostname or "", parts.port or http.client.HTTPS_PORT
    proxy = None if proxy_bypass(host) else getproxies().get("https")
    context = ssl.create_default_context()
    if proxy is not None:
        _check_literal(host, allow_loopback=allow_loopback)
        through = urlsplit(proxy)
        connection = http.client.HTTPSConnection(
            through.hostname or "", through.port, timeout=TIMEOUT_SECONDS, context=context
        )
        connection.set_tunnel(host, port)
        return connection
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=context)
    try:
        raw = socket.create_connection((host, port), timeout=TIMEOUT_SECONDS)
    except OSError as error:
        raise SourceUnreachable(
            f"cannot connect to {host}: {_reason(error)}", hint="Check the URI and the proxy settings"
        ) from error
    try:
        _check_address(raw.getpeername()[0], host, allow_loopback=allow_loopback)
        connection.sock = context.wrap_socket(raw, server_hostname=host)
    except ssl.SSLError as error:
        raw.close()
        raise SourceUnreachable(
            f"{host}: {error.reason or error}", hint="Check the CA bundle (SSL_CERT_FILE)"
        ) from error
    except BaseException:
        raw.close()
        raise
    return connection


def _check_literal(host: str, *, allow_loopback: bool) -> None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return
    _check_address(host, host, allow_loopback=allow_loopback)


def _check_address(address: str, host: str, *, allow_loopback: bool) -> None:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    inside = ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast
    if inside and not (allow_loopback and ip.is_loopback):
        raise SourceNotAllowed(f"{host} is {ip}, an address of this machine or its link", hint="Use another host")


def _get(connection: http.client.HTTPSConnection, parts: SplitResult, transfer: Transfer) -> http.client.HTTPResponse:
    headers = {"User-Agent": "headrace-fetch", "Accept-Encoding": "identity"}
    validator = _validator_path(transfer)
    if transfer.received and validator.exists():
        headers["Range"] = f"bytes={transfer.received}-"
        headers["If-Range"] = json.loads(validator.read_text(encoding="utf-8"))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def _receive(response: http.client.HTTPResponse, parts: SplitResult, transfer: Transfer) -> None:
    validator = _validator_path(transfer)
    length = response.headers.get("content-length")
    if response.status == http.client.PARTIAL_CONTENT:
        transfer.total = transfer.received + int(length) if length else None
    elif response.status == http.client.OK:
        transfer.begin(int(length) if length else None)
        tag = response.headers.get("etag") or response.headers.get("last-modified")
        if tag and not tag.startswith("W/"):
            validator.write_text(json.dumps(tag), encoding="utf-8")
        else:
            validator.unlink(missing_ok=True)
    else:
        if response.status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            transfer.discard()
        raise SourceUnreachable(
            f"{parts.hostname} answered {response.status} {response.reason} for {parts.path}", hint="Check the URI"
        )
    transfer.copy(response)
    validator.unlink(missing_ok=True)


def _validator_path(transfer: Transfer) -> Path:
    return transfer.part.with_name(transfer.part.name + ".etag")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
