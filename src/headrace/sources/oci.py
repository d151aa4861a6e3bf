"""oci://REGISTRY/REPOSITORY[:TAG|@DIGEST]: a model that is an artifact of an OCI registry, with a layer per file.

The name of a file is the annotation `org.opencontainers.image.title` of its layer, as `oras push` writes it; layers
without one are ignored. An artifact with one file, or with one GGUF file beside others (a licence, a card), is that
file; other artifacts are directories. Layers that are archives are refused: their files have no digests in the
manifest. Every layer is verified against its digest in the manifest, and a manifest that is named by digest against it.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headrace.errors import DigestMismatch, SourceUnreachable
from headrace.sources.connections import refused
from headrace.sources.location import OCI_URI
from headrace.sources.registry import AUTH_CONFIG, Registry, read
from headrace.sources.remote import RemoteFile
from headrace.sources.transfer import CHUNK_BYTES, MAX_BYTES, Interrupted, Readable, reason_of

MAX_MANIFEST_BYTES = 4 * 1024 * 1024
"""The limit that the distribution specification recommends."""
MAX_FILES = 1000
TITLE = "org.opencontainers.image.title"
UNPACK = "io.deis.oras.content.unpack"
"""Annotation of `oras push DIRECTORY`: the layer is an archive of the directory."""
_MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_ARCHIVE = re.compile(r"gzip|zstd|modelkit.*tar")
"""Without `application/vnd.oci.image.layer.v1.tar`, which is the default of `oras push FILE` for any file."""
_PUSH = "Push the files themselves: oras push REGISTRY/REPOSITORY:TAG FILE…"


class _Layer(BaseModel):
    model_config = ConfigDict(frozen=True)

    media_type: str = Field(alias="mediaType", max_length=255)
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    size: int = Field(ge=0, le=MAX_BYTES)
    annotations: dict[str, str] = {}

    @property
    def is_archive(self) -> bool:
        return self.annotations.get(UNPACK) == "true" or _ARCHIVE.search(self.media_type) is not None


class _Manifest(BaseModel):
    layers: list[_Layer] = Field(max_length=MAX_FILES)


@dataclass(frozen=True, slots=True)
class _Artifact:
    """The parts of the URI."""

    uri: str
    host: str
    repository: str
    reference: str
    """A tag or a digest."""

    @classmethod
    def of(cls, uri: str) -> Self:
        if not re.fullmatch(OCI_URI, uri):
            raise SourceUnreachable(f"{uri} is not an OCI URI", hint="Write oci://REGISTRY/REPOSITORY:TAG")
        host, _, path = uri.removeprefix("oci://").partition("/")
        repository, at, digest = path.partition("@")
        if not at:
            repository, _, digest = path.partition(":")
        return cls(uri, host, repository, digest or "latest")


def oci_files(uri: str, *, allow_loopback: bool) -> list[RemoteFile]:
    """Return the files of the artifact: one if it is a file, else those of the directory. Raises a SourceError."""
    artifact = _Artifact.of(uri)
    registry = Registry(artifact.host, allow_loopback=allow_loopback)
    layers = _named(artifact, _manifest(artifact, registry))
    weights = [name for name in layers if name.endswith(".gguf")]
    if len(weights) == 1:
        layers = {weights[0]: layers[weights[0]]}
    return [
        RemoteFile(
            path=name,
            size=layer.size,
            version=layer.digest,
            open=_opener(artifact, registry, layer),
            digest=layer.digest,
        )
        for name, layer in layers.items()
    ]


def _manifest(artifact: _Artifact, registry: Registry) -> _Manifest:
    path = f"/v2/{artifact.repository}/manifests/{artifact.reference}"
    with registry.get(path, {"Accept": ", ".join(_MANIFEST_TYPES)}) as response:
        _check(response, artifact, http.client.OK)
        body = read(response, MAX_MANIFEST_BYTES, artifact.host)
    found = f"sha256:{hashlib.sha256(body).hexdigest()}"
    if artifact.reference.startswith("sha256:") and found != artifact.reference:
        raise DigestMismatch(f"the manifest of {artifact.uri} has {found}", hint="Check the registry")
    try:
        return _Manifest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise SourceUnreachable(
            f"{artifact.uri} has no manifest of files ({where}: {first['msg']})", hint=_PUSH
        ) from error


def _named(artifact: _Artifact, manifest: _Manifest) -> dict[str, _Layer]:
    """Return the layers by the name of their file."""
    layers: dict[str, _Layer] = {}
    for layer in manifest.layers:
        name = layer.annotations.get(TITLE)
        if layer.is_archive:
            raise SourceUnreachable(
                f"{artifact.uri} has a layer that is an archive ({layer.media_type[:80]!r})", hint=_PUSH
            )
        if name in layers:
            raise SourceUnreachable(f"{artifact.uri} has two files {name[:80]!r}", hint=_PUSH)
        if name is not None:
            layers[name] = layer
    if not layers:
        raise SourceUnreachable(f"{artifact.uri} has no layer with the annotation {TITLE}", hint=_PUSH)
    return layers


def _opener(
    artifact: _Artifact, registry: Registry, layer: _Layer
) -> Callable[[int], AbstractContextManager[Readable]]:
    @contextlib.contextmanager
    def opened(start: int) -> Iterator[Readable]:
        path = f"/v2/{artifact.repository}/blobs/{layer.digest}"
        with registry.get(path, {"Range": f"bytes={start}-"} if start else {}) as response:
            _check(response, artifact, http.client.OK, http.client.PARTIAL_CONTENT)
            if response.status == http.client.OK:  # of a registry without ranges
                _skip(response, start)
            elif not response.headers.get("content-range", "").startswith(f"bytes {start}-"):
                raise Interrupted(f"{artifact.host} sent another range than the requested one", hint="It is retried")
            yield response

    return opened


def _skip(response: http.client.HTTPResponse, size: int) -> None:
    try:
        while size and (chunk := response.read1(min(size, CHUNK_BYTES))):
            size -= len(chunk)
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(f"the connection failed: {reason_of(error)}", hint="It is retried") from error


def _check(response: http.client.HTTPResponse, artifact: _Artifact, *expected: int) -> None:
    """Raise SourceUnreachable for another status."""
    if response.status == http.client.NOT_FOUND:
        raise SourceUnreachable(f"{artifact.uri} does not exist", hint="Check spec.model.source.uri")
    if response.status not in expected:
        raise refused(response, artifact.host, artifact.uri, hint=f"Check the credentials ({AUTH_CONFIG})")
