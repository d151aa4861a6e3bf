"""The registry of the distribution project (Debian package `docker-registry`), with one user."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from sources.sources_fetcher import digest_of, until
from sources.sources_stores import MANIFEST, login_of, manifest_of

REGISTRY = shutil.which("docker-registry")
USER = "me:$2b$04$abcdefghijklmnopqrstuuPoaPXzWjiVz4HaNq2LJXksWbO79E.S6\n"
"""bcrypt of `correct-horse`."""
_HEADERS = {"Authorization": f"Basic {login_of('me', 'correct-horse')}"}


@contextlib.contextmanager
def running(directory: Path) -> Iterator[str]:
    """Run a registry, and yield its host and port."""
    assert REGISTRY is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    (directory / "htpasswd").write_text(USER)
    config = directory / "registry.yaml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{host}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: '{directory / 'registry'}'}}}}\n"
        f"auth: {{htpasswd: {{realm: test, path: '{directory / 'htpasswd'}'}}}}\n"
    )
    with subprocess.Popen([REGISTRY, "serve", str(config)], stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: _answers(host))
            yield host
        finally:
            process.kill()


def push(host: str, repository: str, tag: str, files: dict[str, bytes]) -> None:
    """Push the files as `oras push` does."""
    manifest = manifest_of(files)
    for blob in (b"{}", *files.values()):
        started = _send("POST", f"http://{host}/v2/{repository}/blobs/uploads/", b"", "application/octet-stream")
        _send("PUT", f"{started}&digest={digest_of(blob)}", blob, "application/octet-stream")
    _send("PUT", f"http://{host}/v2/{repository}/manifests/{tag}", manifest, MANIFEST)


def _send(method: str, url: str, body: bytes, kind: str) -> str:
    headers = {**_HEADERS, "Content-Type": kind}
    request = urllib.request.Request(url, body, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as response:
        return str(response.headers["Location"])


def _answers(host: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://{host}/v2/", headers=_HEADERS), timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False
