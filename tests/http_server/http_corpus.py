"""Messages in which two readers may disagree about where they end, or that one of them may not take for HTTP at all.

Each names the statuses that come back, and whether the connection is kept. 100 is the interim answer.
"""

from __future__ import annotations

from dataclasses import dataclass

BODY = b'{"model": "echo", "prompt": "x", "max_tokens": 1}'
STREAM = b'{"model": "echo", "prompt": "x", "max_tokens": 3, "stream": true}'
SMUGGLED = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
"""What must never be answered where it is a body, or comes after the last message."""


@dataclass(frozen=True, slots=True)
class Case:
    message: bytes
    statuses: tuple[int, ...]
    kept: bool


def post(*fields: str, body: bytes = BODY, version: str = "1.1", target: str = "/v1/completions") -> bytes:
    """A completion; the fields as they are given, and a Host."""
    lines = "".join(f"{field}\r\n" for field in ("Host: localhost", *fields))
    return f"POST {target} HTTP/{version}\r\n{lines}\r\n".encode() + body


def sized(*fields: str, body: bytes = BODY, version: str = "1.1") -> bytes:
    return post(*fields, f"Content-Length: {len(body)}", body=body, version=version)


def chunked(*fields: str, extension: str = "", trailers: str = "", version: str = "1.1") -> bytes:
    half = len(BODY) // 2
    pieces = (BODY[:half], BODY[half:])
    chunks = b"".join(b"%x%s\r\n%s\r\n" % (len(piece), extension.encode(), piece) for piece in pieces)
    body = chunks + f"0{extension}\r\n{trailers}\r\n".encode()
    return post(*fields, "Transfer-Encoding: chunked", body=body, version=version)


def get(
    *fields: str, method: str = "GET", target: str = "/v1/models", version: str = "1.1", host: bool = True
) -> bytes:
    lines = "".join(f"{field}\r\n" for field in (*(("Host: localhost",) if host else ()), *fields))
    return f"{method} {target} HTTP/{version}\r\n{lines}\r\n".encode()


H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
UPGRADE = ("Connection: Upgrade", "Upgrade: anything")
WEBSOCKET = ("Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA==")
CHUNKS = "Transfer-Encoding: chunked"

KEPT: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "plain": (sized(), (200,)),
    "upgrade to h2c": (sized(*H2C), (200,)),
    "upgrade to anything": (sized(*UPGRADE), (200,)),
    "upgrade to a websocket": (sized(*WEBSOCKET), (200,)),
    "upgrade, whose body is a request": (sized(*UPGRADE, body=SMUGGLED), (400,)),
    "upgrade, in chunks": (chunked(*UPGRADE), (200,)),
    "upgrade, without a body": (get(*UPGRADE), (200,)),
    "upgrade, named twice": (sized(*UPGRADE, "Upgrade: h2c"), (200,)),
    "upgrade, after a length": (post(f"Content-Length: {len(BODY)}", *UPGRADE), (200,)),
    "upgrade, pipelined": (sized(*UPGRADE) + get(*H2C) + sized(), (200, 200, 200)),
    "upgrade, in a trailer": (chunked(trailers="Upgrade: x\r\nConnection: upgrade\r\n"), (200,)),
    "chunks": (chunked(), (200,)),
    "chunks, upper case": (chunked().replace(b": chunked", b": CHUNKED"), (200,)),
    "chunks with extensions": (chunked(extension=';a=b;c="d;e"'), (200,)),
    "chunks with trailers": (chunked(trailers="X-Sum: 1\r\nAuthorization: Bearer x\r\n"), (200,)),
    "chunks with a Host as trailer": (chunked(trailers="Host: other\r\nHost: another\r\n"), (200,)),
    "pipelined": (sized() + get() + chunked(), (200, 200, 200)),
    "a body of a GET": (get("Content-Length: 5") + b"GET /", (200,)),
    "line ends before it": (b"\r\n\r\n" + sized(), (200,)),
    "absolute form": (get(target="http://localhost/v1/models"), (200,)),
    "absolute form without a path": (get(target="http://localhost"), (404,)),
    "a target of an asterisk": (get(method="OPTIONS", target="*"), (404,)),
    "HEAD": (get(method="HEAD"), (200,)),
    "no space after colons": (sized().replace(b": localhost", b":localhost"), (200,)),
    "Expect": (sized("Expect: 100-continue"), (100, 200)),
    "Expect, in chunks": (chunked("Expect: 100-continue"), (100, 200)),
    "Expect, pipelined": (sized("Expect: 100-continue") + sized(), (100, 200, 200)),
    "Expect of something else": (sized("Expect: magic"), (200,)),
}

CLOSED: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "close": (sized("Connection: close"), (200,)),
    "close, and a request": (sized("Connection: close") + SMUGGLED, (200,)),
    "close, and garbage": (sized("Connection: close") + b"\0garbage\r\n\r\n", (200,)),
    "close, and an upgrade": (sized("Connection: close, upgrade", "Upgrade: h2c") + SMUGGLED, (200,)),
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (400,)),
    "garbage after a request": (sized() + b"\0garbage", (200, 400)),
    "garbage after a stream": (sized(body=STREAM) + b"\0garbage", (200, 400)),
    "garbage after two requests": (sized() + get() + b"garbage\r\n\r\n", (200, 200, 400)),
    "garbage after an upgrade": (sized(*H2C) + b"\0garbage", (200, 400)),
    "more than its length": (post("Content-Length: 2", body=b"{}") + b"}\r\n\r\n" + SMUGGLED, (400, 400)),
    "HTTP/2 with prior knowledge": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,)),
    "HTTP/2.0": (get(version="2.0"), (400,)),
    "HTTP/0.9": (get(version="0.9"), (400,)),
    "HTTP/1.0": (sized(version="1.0"), (200,)),
    "HTTP/1.0, kept alive": (sized("Connection: keep-alive", version="1.0") + SMUGGLED, (200,)),
    "HTTP/1.0 without a Host": (get(version="1.0", host=False), (200,)),
    "HTTP/1.0 in chunks": (chunked(version="1.0") + SMUGGLED, (400,)),
    "HTTP/1.0 with Expect": (sized("Expect: 100-continue", version="1.0"), (200,)),
    "HTTP/1.0 with an upgrade": (sized(*UPGRADE, version="1.0"), (200,)),
    "length and chunks": (post("Content-Length: 5", CHUNKS, body=b"0\r\n\r\n") + SMUGGLED, (400,)),
    "chunks and length": (post(CHUNKS, "Content-Length: 5", body=b"0\r\n\r\n") + SMUGGLED, (400,)),
    "length, chunks and an upgrade": (post("Content-Length: 5", CHUNKS, *UPGRADE, body=b"0\r\n\r\n"), (400,)),
    "two lengths": (post("Content-Length: 2", "Content-Length: 3", body=b"{}}"), (400,)),
    "the same length twice": (post("Content-Length: 2", "Content-Length: 2", body=b"{}"), (400,)),
    "a list of lengths": (post("Content-Length: 2, 2", body=b"{}"), (400,)),
    "a length with a sign": (post("Content-Length: +2", body=b"{}"), (400,)),
    "an empty length": (post("Content-Length:", body=b"{}"), (400,)),
    "a length out of range": (post("Content-Length: 99999999999999999999", body=b"{}"), (400,)),
    "a space before the colon": (post("Content-Length : 2", body=b"{}"), (400,)),
    "unknown coding": (post("Transfer-Encoding: xchunked", body=b"0\r\n\r\n") + SMUGGLED, (400,)),
    "coding before chunks": (post("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n") + SMUGGLED, (400,)),
    "coding after chunks": (post("Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"), (400,)),
    "two codings": (post("Transfer-Encoding: identity", CHUNKS, body=b"0\r\n\r\n"), (400,)),
    "chunks twice": (post(CHUNKS, CHUNKS, body=b"0\r\n\r\n"), (400,)),
    "an empty coding": (post("Transfer-Encoding:") + SMUGGLED, (400,)),
    "a malformed chunk": (post(CHUNKS, body=b"zz\r\n{}\r\n0\r\n\r\n") + SMUGGLED, (400,)),
    "a chunk size with a prefix": (post(CHUNKS, body=b"0x2\r\n{}\r\n0\r\n\r\n"), (400,)),
    "a chunk size out of range": (post(CHUNKS, body=b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n"), (400,)),
    "a chunk longer than its size": (post(CHUNKS, body=b"2\r\n{}}\r\n0\r\n\r\n"), (400,)),
    "a malformed chunk after requests": (get() + get() + post(CHUNKS, body=b"zz\r\n"), (200, 200, 400)),
    "chunks with bare line feeds": (post(CHUNKS, body=b"2\n{}\n0\n\n"), (400,)),
    "an extension with a bare line feed": (post(CHUNKS, body=b"2;a\n{}\r\n0\r\n\r\n"), (400,)),
    "a length as trailer": (chunked(trailers="Content-Length: 5\r\n"), (400,)),
    "a coding as trailer": (chunked(trailers=f"{CHUNKS}\r\n"), (400,)),
    "large trailers": (chunked(trailers=f"X: {'a' * 9000}\r\n"), (400,)),
    "many trailers": (chunked(trailers="X: a\r\n" * 2000), (400,)),
    "a folded line": (post("Content-Length: 2", "X: a", " Transfer-Encoding: chunked", body=b"{}"), (400,)),
    "a folded first line": (get(" Host: other"), (400,)),
    "bare line feeds": (sized().replace(b"\r\n", b"\n"), (400,)),
    "a bare line feed": (get("X: a\nContent-Length: 5"), (400,)),
    "a bare carriage return": (get("X: a\rContent-Length: 5"), (400,)),
    "a NUL": (get("X: a\0b"), (400,)),
    "a space in a name": (get("X Y: a"), (400,)),
    "an unknown method": (get(method="BREW"), (400,)),
    "a method in lower case": (get(method="get"), (400,)),
    "no Host": (get(host=False), (400,)),
    "two Hosts": (get("Host: localhost"), (400,)),
    "CONNECT": (get(method="CONNECT", target="localhost:443") + SMUGGLED, (405,)),
    "CONNECT with a length": (get("Content-Length: 2", method="CONNECT", target="localhost:443") + b"hi", (405,)),
    "CONNECT after a request": (get() + get(method="CONNECT", target="localhost:443"), (200, 405)),
    "CONNECT with an upgrade": (get(*UPGRADE, method="CONNECT", target="localhost:443") + SMUGGLED, (405,)),
    "a target without a slash": (get(target="v1/models"), (400,)),
    "a large head": (get(f"X: {'a' * 40_000}"), (431,)),
    "a large target": (get(target=f"/{'a' * 40_000}"), (431,)),
    "many lines": (get(*["X: a"] * 6000), (431,)),
    "a large head with a body": (sized(f"X: {'a' * 40_000}"), (431,)),
    "a large head with an upgrade": (sized(*UPGRADE, f"X: {'a' * 40_000}"), (431,)),
    "a large head with an upgrade after a request": (get() + sized(*UPGRADE, f"X: {'a' * 40_000}"), (200, 431)),
    "a large Upgrade": (sized("Connection: Upgrade", f"Upgrade: {'a' * 40_000}"), (431,)),
    "a large head after a request": (get() + get(f"X: {'a' * 40_000}"), (200, 431)),
}

CORPUS = {
    **{name: Case(*case, kept=True) for name, case in KEPT.items()},
    **{name: Case(*case, kept=False) for name, case in CLOSED.items()},
}
