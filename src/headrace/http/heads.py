"""Checks of a request's head beyond those of the parser, so that no other server reads it differently."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.http.errors import ConnectNotAllowed, HeadTooLarge, MalformedRequest, RequestError

MAX_HEAD_BYTES = 32 * 1024
"""Of the request line and all header lines; the largest cookies and tokens in use are below it."""
LINE_BYTES = 4
"""Of a header line besides name and value: colon, space, CR and LF."""
REQUEST_LINE_BYTES = 14
"""Of the request line besides method and target, and of the blank line at the end."""
NOTED = frozenset({b"host", b"origin", b"expect", b"transfer-encoding"})
"""Names of the fields that are checked here."""

HTTP_1_0, HTTP_1_1 = "1.0", "1.1"


class Head:
    """The noted fields of one request. Not a dataclass: one is made per request, mostly with these defaults."""

    host: bytes | None = None
    origin: bytes | None = None
    expects_continue: bool = False
    fault: RequestError | None = None
    _coded: bool = False

    def note(self, name: bytes, value: bytes) -> None:
        """Take one of the noted fields; `name` is in lower case."""
        if name == b"host":
            if self.host is not None:
                self.fault = MalformedRequest("there is more than one Host header")
            self.host = value
        elif name == b"origin":
            self.origin = value
        elif name == b"expect":
            self.expects_continue = value.lower() == b"100-continue"
        else:
            if self._coded or value.strip().lower() != b"chunked":
                self.fault = MalformedRequest(
                    "`Transfer-Encoding` is not `chunked`", hint="Send the body with Content-Length"
                )
            self._coded = True

    def check(self, method: bytes, version: str) -> RequestError | None:
        """Return why the request is rejected, or None."""
        if method == b"CONNECT":
            return ConnectNotAllowed()
        if version == HTTP_1_0:
            self.expects_continue = False  # RFC 9110 §10.1.1
            if self._coded:  # RFC 9112 §6.1: an intermediary may have read the body differently
                return MalformedRequest("HTTP/1.0 has no Transfer-Encoding")
        elif version != HTTP_1_1:
            return MalformedRequest(f"HTTP/{version} is not served", hint="Use HTTP/1.1")
        elif self.host is None:
            return MalformedRequest("an HTTP/1.1 request needs a Host header")
        return self.fault


def check_size(method: bytes, target: bytes, fields: Iterable[tuple[bytes, bytes]]) -> RequestError | None:
    """Return the error of a head that is too large, or None."""
    size = len(method) + len(target) + REQUEST_LINE_BYTES + lines_size(fields)
    return too_large() if size > MAX_HEAD_BYTES else None


def lines_size(fields: Iterable[tuple[bytes, bytes]]) -> int:
    """Return the size of header lines or trailers, as most clients write them."""
    return sum(len(name) + len(value) + LINE_BYTES for name, value in fields)


def too_large() -> HeadTooLarge:
    """Return the error."""
    return HeadTooLarge(
        f"the head of the request is larger than {MAX_HEAD_BYTES >> 10} KiB", hint="Send fewer or shorter headers"
    )
