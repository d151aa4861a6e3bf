"""https://…: downloads that can be resumed, over connections that are checked (`headrace.sources.connections`)."""

from __future__ import annotations

import http.client
import io
import re

from headrace.errors import SourceUnreachable
from headrace.sources.connections import Url, get, refused
from headrace.sources.transfer import Interrupted, Transfer, with_retries


def fetch_https(uri: str, transfer: Transfer, *, allow_loopback: bool) -> None:
    """Download into the transfer; resume an earlier attempt if the server still has the same file."""
    with_retries(transfer, lambda: _try(uri, transfer, allow_loopback=allow_loopback))


def _try(uri: str, transfer: Transfer, *, allow_loopback: bool) -> None:
    headers = {}
    if transfer.received and (validator := transfer.validator) is not None:
        headers = {"Range": f"bytes={transfer.received}-", "If-Range": validator}
    with get(uri, headers, allow_loopback=allow_loopback) as response:
        _receive(response, Url.parse(uri), transfer)


def _receive(response: http.client.HTTPResponse, url: Url, transfer: Transfer) -> None:
    """Receive the body: all of it, or the missing rest."""
    length = response.headers.get("content-length", "")
    size = int(length) if length.isdecimal() else None
    match response.status:
        case http.client.OK:
            if size is None and not response.chunked:
                raise SourceUnreachable(f"{url.host} sends no size for {url.shown}", hint="Use another server")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise SourceUnreachable(
                    f"{url.host} sends {url.shown} only with a content encoding", hint="Use another server"
                )
            transfer.begin(size, validator=_validator(response))
            transfer.copy(response)
        case http.client.PARTIAL_CONTENT:
            transfer.go_on(_total(response, r"bytes (\d+)-\d+/(\d+)", transfer))
            transfer.copy(response)
        case http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            # The earlier attempt received everything, but was interrupted before it finished.
            transfer.go_on(_total(response, r"bytes ()\*/(\d+)", transfer))
            transfer.copy(io.BytesIO())
        case _:
            raise refused(response, url.host, url.shown, hint="Check the URI")


def _total(response: http.client.HTTPResponse, pattern: str, transfer: Transfer) -> int:
    """Return the file's size from Content-Range; discard the transfer if the range is not the requested one."""
    content_range = re.fullmatch(pattern, response.headers.get("content-range", ""))
    if content_range is None or int(content_range[1] or content_range[2]) != transfer.received:
        transfer.discard()
        raise Interrupted("the server sent another range than the requested one", hint="It is retried")
    return int(content_range[2])


def _validator(response: http.client.HTTPResponse) -> str | None:
    """Return the value for If-Range: a strong ETag, or the date if there is no ETag."""
    tag = response.headers.get("etag")
    if tag is not None:
        return None if tag.startswith("W/") else tag
    return response.headers.get("last-modified")
