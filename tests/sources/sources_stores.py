"""Servers of the protocols of S3 and of the Hugging Face hub, small and real: objects, listings, ranges, ETags."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from typing_extensions import override

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(slots=True)
class Store:
    """The content of a server, and what was requested; a test changes it at any time."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    authorizations: set[str | None] = field(default_factory=set)
    refuse: int = 0
    """Status of all answers, if not 0."""
    cut: int = 0
    """Number of the next answers with content that end after half of it."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        self.store.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        self.store.authorizations.add(self.headers.get("Authorization"))
        if self.store.refuse:
            self._answer(self.store.refuse, b"")
        else:
            self.answer(urlsplit(self.path).path, parse_qs(urlsplit(self.path).query))

    def answer(self, path: str, query: dict[str, list[str]]) -> None:
        raise NotImplementedError

    def _file(self, name: str) -> None:
        content = self.store.files.get(name)
        if content is None:
            self._answer(404, b"")
            return
        tag, asked = etag(content), self.headers.get("Range")
        if self.headers.get("If-Match") not in (None, tag):
            self._answer(412, b"")
            return
        start, end = 0, len(content)
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1, end) if last else end
        headers = {"ETag": tag, "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        self._answer(206 if asked else 200, content[start:end], headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET" and self.store.cut and len(body) > 100_000:
            self.store.cut -= 1
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif self.command == "GET":
            self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        pass


class S3Handler(_Handler):
    """GetObject, HeadObject and ListObjectsV2 of buckets in the path."""

    @override
    def answer(self, path: str, query: dict[str, list[str]]) -> None:
        bucket, _, key = unquote(path).removeprefix("/").partition("/")
        if "list-type" not in query:
            self._file(f"{bucket}/{key}")
            return
        prefix = f"{bucket}/{query.get('prefix', [''])[0]}"
        contents = "".join(
            f"<Contents><Key>{escape(name.removeprefix(f'{bucket}/'))}</Key><Size>{len(content)}</Size>"
            f"<ETag>{escape(etag(content))}</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for name, content in sorted(self.store.files.items())
            if name.startswith(prefix)
        )
        body = f'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>'
        self._answer(200, body.encode(), {"Content-Type": "application/xml"})


class HubHandler(_Handler):
    """The model information and the files of one repository, `org/model`."""

    @override
    def answer(self, path: str, query: dict[str, list[str]]) -> None:
        if path.startswith("/api/models/org/model"):
            siblings = [
                {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
                for name, content in self.store.files.items()
            ]
            body = json.dumps({"id": "org/model", "sha": COMMIT, "siblings": siblings}).encode()
            self._answer(200, body, {"Content-Type": "application/json"})
        elif path.startswith(f"/org/model/resolve/{COMMIT}/"):
            self._file(unquote(path).removeprefix(f"/org/model/resolve/{COMMIT}/"))
        else:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})


@contextlib.contextmanager
def serving(kind: type[_Handler]) -> Iterator[Store]:
    """Serve a store on this machine."""
    store = Store()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (kind,), {"store": store}))
    store.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def etag(content: bytes) -> str:
    return f'"{hashlib.sha1(content).hexdigest()}"'
