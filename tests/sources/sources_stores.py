"""Servers of the protocols of S3, the Hugging Face hub and OCI registries, small and real: listings, ranges, ETags."""

from __future__ import annotations

import base64
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

from sources.sources_fetcher import digest_of
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
    login: str = ""
    """Authorization that the token server of a registry requires; empty: none, and no token either."""
    token: str = ""
    token_requests: int = 1000
    """Number of requests for which each token is accepted; the handler counts them in `accepted`."""
    accepted: int = 0
    blobs: dict[str, str] = field(default_factory=dict)
    """Names of files by digest, where they are not those of the content."""
    elsewhere: str = ""
    """URL of the server to which a registry redirects requests for blobs; empty: it has them."""
    manifest: bytes = b""
    """Manifest of all tags, if not empty."""
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


class RegistryHandler(_Handler):
    """Manifests and blobs of one repository, `org/model`, for clients with a token.

    The tag `v1` has all files, a tag with the name of a file has that one.
    """

    @override
    def answer(self, path: str, query: dict[str, list[str]]) -> None:
        store, authorization = self.store, self.headers.get("Authorization")
        if path == "/token":
            store.accepted = 0
            allowed = authorization == store.login and query["scope"] == ["repository:org/model:pull"]
            self._answer(200 if allowed else 401, json.dumps({"token": store.token}).encode() if allowed else b"")
        elif store.login and (authorization != f"Bearer {store.token}" or store.accepted >= store.token_requests):
            challenge = f'Bearer realm="{store.url}/token",service="test",scope="repository:org/model:pull"'
            self._answer(401, b"{}", {"WWW-Authenticate": challenge})
        elif path.startswith("/v2/org/model/blobs/") and store.elsewhere:
            self._answer(307, b"", {"Location": store.elsewhere + path})
        elif path.startswith("/v2/org/model/blobs/"):
            store.accepted += 1
            blobs = {digest_of(content): name for name, content in store.files.items()} | store.blobs
            self._file(blobs.get(path.rpartition("/")[2], ""))
        else:
            store.accepted += 1
            tag = path.removeprefix("/v2/org/model/manifests/")
            names = [name for name in sorted(store.files) if tag in ("v1", name)]
            body = store.manifest or manifest_of({name: store.files[name] for name in names})
            self._answer(200 if names or store.manifest else 404, body, {"Content-Type": MANIFEST})


MANIFEST = "application/vnd.oci.image.manifest.v1+json"
TITLE = "org.opencontainers.image.title"


def manifest_of(files: dict[str, bytes]) -> bytes:
    """Return the manifest that `oras push` writes for the files."""
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2}
    layers = [
        {
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": digest_of(content),
            "size": len(content),
            "annotations": {TITLE: name},
        }
        for name, content in files.items()
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": empty, "layers": layers}).encode()


def login_of(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


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
