"""A real HTTPS server that can be slow, cut off, change its mind or lie; and a proxy in front of it."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from typing_extensions import override

NAMES = "DNS:localhost,DNS:model.test,IP:127.0.0.1"


@dataclass(frozen=True, slots=True)
class Authority:
    """A self-signed certificate for this machine."""

    certificate: Path
    key: Path

    @classmethod
    def make(cls, directory: Path) -> Authority:
        made = cls(directory / "certificate.pem", directory / "key.pem")
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-days", "2", "-subj", "/CN=localhost", "-addext", f"subjectAltName={NAMES}"]
        command += ["-keyout", str(made.key), "-out", str(made.certificate)]
        subprocess.run(command, check=True, capture_output=True)
        return made


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that came."""

    path: str
    range: str | None
    authorization: str | None


@dataclass(slots=True)
class Origin:
    """What the server has and how it behaves; a test changes it at any time."""

    port: int
    content: bytes = b""
    etag: str | None = '"one"'
    ranges: bool = True
    lie: bool = False
    """Answers the next range with another part of the file."""
    length: bool = True
    chunked: bool = False
    hold_after: int | None = None
    """Stops after so many bytes of a body until `go_on` is set."""
    cut_after: int | None = None
    """Hangs up after so many bytes of the next body."""
    statuses: list[int] = field(default_factory=list)
    """Answers of the next requests, before the content."""
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    go_on: threading.Event = field(default_factory=threading.Event)

    def uri(self, path: str = "/model.gguf", host: str = "localhost") -> str:
        return f"https://{host}:{self.port}{path}"

    @property
    def ranges_asked(self) -> list[str | None]:
        return [asked.range for asked in self.asked]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    origin: Origin

    def do_GET(self) -> None:
        origin = self.origin
        origin.asked.append(Asked(self.path, self.headers["Range"], self.headers["Authorization"]))
        self.close_connection = True
        if origin.statuses:
            self._empty(origin.statuses.pop(0))
        elif self.path in origin.redirects:
            self._empty(302, Location=origin.redirects[self.path])
        else:
            with contextlib.suppress(ConnectionError, ssl.SSLError):  # the client may be killed
                self._content()

    def _empty(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _content(self) -> None:
        origin, content, start = self.origin, self.origin.content, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if wanted and origin.ranges and self.headers["If-Range"] == origin.etag:
            start = int(wanted[1])
            if start >= len(content):
                self._empty(416, **{"Content-Range": f"bytes */{len(content)}"})
                return
            start, origin.lie = start - origin.lie, False
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if origin.etag is not None:
            self.send_header("ETag", origin.etag)
        if origin.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif origin.length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self._body(content, start)

    def _body(self, content: bytes, start: int) -> None:
        origin = self.origin
        if origin.cut_after is not None:
            self.wfile.write(content[start : start + origin.cut_after])
            origin.cut_after = None
        elif origin.chunked:
            for offset in range(start, len(content), 65536):
                piece = content[offset : offset + 65536]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        else:
            held = len(content) if origin.hold_after is None else start + origin.hold_after
            self.wfile.write(content[start:held])
            if content[held:]:
                origin.go_on.wait(60)
                self.wfile.write(content[held:])

    @override
    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    origin: Origin
    context: ssl.SSLContext

    @override
    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.origin.connections += 1
        return connection, address

    @override
    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in the connection's own thread."""
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            super().finish_request(self.context.wrap_socket(request, server_side=True), client_address)


@contextlib.contextmanager
def serving(authority: Authority) -> Iterator[Origin]:
    """Serve on 127.0.0.1."""
    handler = type("Handler", (_Handler,), {})
    server = _Server(("127.0.0.1", 0), handler)
    server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.context.load_cert_chain(authority.certificate, authority.key)
    origin = server.origin = Origin(server.server_port)
    handler.origin = origin  # type: ignore[attr-defined]  # a class of its own for each server
    with _running(server):
        yield origin
        origin.go_on.set()


class _Proxy(BaseHTTPRequestHandler):
    """Leads every CONNECT to the one origin, as a proxy that resolves names does."""

    port: int
    authorizations: list[str | None]

    def do_CONNECT(self) -> None:
        self.authorizations.append(self.headers["Proxy-Authorization"])
        with socket.create_connection(("127.0.0.1", self.port)) as origin:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: origin, origin: self.connection}
            while True:
                readable, _, _ = select.select(list(ends), [], [], 30)
                for end in readable:
                    data = end.recv(65536)
                    if not data:
                        return
                    ends[end].sendall(data)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy and the credentials it was given."""

    port: int
    authorizations: list[str | None]


@contextlib.contextmanager
def proxying(origin: Origin) -> Iterator[Proxy]:
    """Run a proxy on 127.0.0.1 in front of the origin."""
    authorizations: list[str | None] = []
    handler = type("Handler", (_Proxy,), {"port": origin.port, "authorizations": authorizations})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    with _running(server):
        yield Proxy(server.server_port, authorizations)


@contextlib.contextmanager
def _running(server: ThreadingHTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
