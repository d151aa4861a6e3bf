"""oci://: artifacts of a registry: which layers are files, what is refused, authentication, redirects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sources.sources_fetcher import Fetcher, digest_of
from sources.sources_origin import Origin
from sources.sources_registry import REGISTRY, push, running
from sources.sources_stores import RegistryHandler, Store, login_of, manifest_of, serving

SECRET = "hush-hush-hush"
WEIGHTS = bytes(range(256)) * 1000


@pytest.fixture
def store() -> Iterator[Store]:
    with serving(RegistryHandler) as store:
        store.files = {"model.gguf": WEIGHTS, "LICENSE": b"free"}
        yield store


@pytest.fixture
def local(store: Store, tmp_path: Path) -> Iterator[Fetcher]:
    fetcher = Fetcher(tmp_path / "models", tmp_path, {"OCI_PLAIN_HTTP": host_of(store), "HOME": str(tmp_path)})
    yield fetcher
    fetcher.stop_all()


def host_of(store: Store) -> str:
    return store.url.removeprefix("http://")


def uri_of(store: Store, tag: str = ":v1") -> str:
    return f"oci://{host_of(store)}/org/model{tag}"


def test_artifact_when_one_gguf_then_that_file(store: Store, local: Fetcher) -> None:
    outcome = local.fetch(uri_of(store), digest=digest_of(WEIGHTS))
    assert outcome.code == 0, outcome.output
    assert local.target(uri_of(store), digest_of(WEIGHTS)).read_bytes() == WEIGHTS


@pytest.mark.parametrize("reason", [None, "DigestMismatch"])
def test_manifest_when_named_by_digest_then_verified(store: Store, local: Fetcher, reason: str | None) -> None:
    store.manifest = manifest_of({"model.gguf": WEIGHTS})
    uri = uri_of(store, f"@{digest_of(b'another' if reason else store.manifest)}")
    outcome = local.fetch(uri)
    assert outcome.said.get("reason") == reason, outcome.output
    assert local.target(uri).exists() == (reason is None)


def test_blob_when_not_of_its_digest_then_nothing_is_kept(store: Store, local: Fetcher) -> None:
    """A registry that serves other bytes than the manifest lists."""
    store.manifest = manifest_of({"model.gguf": WEIGHTS})
    store.blobs = {digest_of(WEIGHTS): "other"}
    store.files["other"] = WEIGHTS[::-1]
    outcome = local.fetch(uri_of(store))
    assert outcome.said["reason"] == "DigestMismatch", outcome.output
    assert not local.target(uri_of(store)).exists()
    assert not local.part(uri_of(store)).exists()


def manifest(*layers: dict[str, Any]) -> bytes:
    """Return the manifest of one file with changed layers."""
    base = json.loads(manifest_of({"model.gguf": WEIGHTS}))
    (layer,) = base["layers"]
    return json.dumps({**base, "layers": [{**layer, **change} for change in layers]}).encode()


TAR = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}
KIT = {"mediaType": "application/vnd.kitops.modelkit.model.v1.tar"}
UNPACKED = {"annotations": {"org.opencontainers.image.title": "a", "io.deis.oras.content.unpack": "true"}}
OUTSIDE = {"annotations": {"org.opencontainers.image.title": "../../evil"}}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (manifest(TAR), "an archive"),
        (manifest(KIT), "an archive"),
        (manifest(UNPACKED), "an archive"),
        (manifest({"annotations": {}}), "no layer with the annotation"),
        (manifest({}, {}), "two files 'model.gguf'"),
        (manifest({"annotations": {"org.opencontainers.image.title": "a.json"}}, OUTSIDE), "'../../evil'"),
        (manifest({"digest": "sha256:../../etc/passwd"}), "layers.0.digest"),
        (manifest({"size": -1}), "layers.0.size"),
        (manifest(*[{}] * 1001), "at most 1000"),
        (b'{"manifests": []}', "layers: Field required"),
        (b"[" * 100_000, "no manifest of files"),
        (b" " * (4 * 1024 * 1024 + 1), "more than 4194304 bytes"),
    ],
)
def test_manifest_when_not_of_files_then_refused(store: Store, local: Fetcher, body: bytes, says: str) -> None:
    store.manifest = body
    outcome = local.fetch(uri_of(store))
    assert outcome.said["reason"] == "SourceUnreachable", outcome.output
    assert says in outcome.said["message"]
    assert not list(local.directory.glob("*/model*"))


def test_credentials_when_in_dockers_file_then_used(store: Store, local: Fetcher, tmp_path: Path) -> None:
    store.login, store.token = f"Basic {login_of('me', SECRET)}", "t0ken"
    (tmp_path / ".docker").mkdir()
    entry = {"username": "me", "password": SECRET}
    (tmp_path / ".docker" / "config.json").write_text(json.dumps({"auths": {host_of(store): entry}}))
    outcome = local.fetch(uri_of(store))
    assert outcome.code == 0, outcome.output
    assert SECRET not in outcome.output


@pytest.mark.parametrize("config", [f'{{"auths": "{SECRET}', f'{{"auths": "{SECRET}"}}', f'["{SECRET}"]'])
def test_credentials_when_unreadable_then_not_shown(store: Store, local: Fetcher, config: str) -> None:
    store.login = "Basic x"
    local.environment["DOCKER_AUTH_CONFIG"] = config
    outcome = local.fetch(uri_of(store))
    assert "the Docker configuration is not readable" in outcome.said["message"]
    assert SECRET not in outcome.output


def test_credentials_when_of_another_registry_then_not_sent(store: Store, local: Fetcher) -> None:
    store.login, store.token = f"Basic {login_of('me', SECRET)}", "t0ken"
    entry = {"auth": login_of("me", SECRET)}
    local.environment["DOCKER_AUTH_CONFIG"] = json.dumps({"auths": {"registry.example": entry}})
    outcome = local.fetch(uri_of(store))
    assert "returned 401" in outcome.said["message"]
    assert store.authorizations == {None}


def test_token_when_expired_then_another_one(store: Store, local: Fetcher) -> None:
    """Each token is accepted for two requests: the manifest and one blob of three."""
    store.files = {"a.json": b"{}", "b.json": b"[]", "c.safetensors": WEIGHTS}
    store.login, store.token, store.token_requests = f"Basic {login_of('me', SECRET)}", "t0ken", 2
    entry = {"auth": login_of("me", SECRET)}
    local.environment["DOCKER_AUTH_CONFIG"] = json.dumps({"auths": {host_of(store): entry}})
    outcome = local.fetch(uri_of(store))
    assert outcome.code == 0, outcome.output
    assert sum("/token" in request for request in store.requests) == 2


def test_registry_when_not_listed_then_no_plain_http(store: Store, local: Fetcher) -> None:
    local.environment["OCI_PLAIN_HTTP"] = "127.0.0.1:1"
    outcome = local.fetch(uri_of(store))
    assert outcome.said["reason"] == "SourceUnreachable", outcome.output
    assert store.requests == []


def test_registry_when_on_this_machine_then_refused(store: Store, local: Fetcher) -> None:
    local.allow_loopback = False
    outcome = local.fetch(uri_of(store))
    assert (outcome.code, outcome.said["reason"]) == (11, "SourceNotAllowed")
    assert store.requests == []


def test_redirect_then_followed_without_credentials(store: Store, local: Fetcher) -> None:
    store.login, store.token = f"Basic {login_of('me', SECRET)}", "t0ken"
    local.environment["DOCKER_AUTH_CONFIG"] = json.dumps({"auths": {host_of(store): {"auth": login_of("me", SECRET)}}})
    with serving(RegistryHandler) as other:
        store.elsewhere, other.files = other.url, store.files
        outcome = local.fetch(uri_of(store))
        assert outcome.code == 0, outcome.output
        assert (len(other.requests), other.authorizations) == (1, {None})


def test_redirect_when_to_an_inside_address_then_refused(origin: Origin, fetcher: Fetcher) -> None:
    """Also of a registry over https, without OCI_PLAIN_HTTP."""
    origin.content = manifest_of({"model.gguf": WEIGHTS})
    blob = f"/v2/org/model/blobs/{digest_of(WEIGHTS)}"
    origin.redirects = {blob: "https://169.254.169.254/blob"}
    outcome = fetcher.fetch(f"oci://localhost:{origin.port}/org/model:v1")
    assert outcome.said["reason"] == "SourceNotAllowed", outcome.output
    assert "169.254.169.254" in outcome.said["message"]


if REGISTRY is not None:  # a peer beside our own server, where Debian's package is installed (`.ci/run` tries to)

    @pytest.mark.parametrize("password", ["correct-horse", "wrong"])
    def test_artifact_of_the_registry_of_distribution(tmp_path: Path, password: str) -> None:
        files = {"config.json": b"{}", "model.safetensors": WEIGHTS * 20}
        with running(tmp_path) as host:
            push(host, "org/model", "v1", files)
            environment = {"OCI_PLAIN_HTTP": host}
            environment["DOCKER_AUTH_CONFIG"] = json.dumps({"auths": {host: {"auth": login_of("me", password)}}})
            fetcher = Fetcher(tmp_path / "models", tmp_path, environment)
            uri = f"oci://{host}/org/model:v1"
            outcome = fetcher.fetch(uri)
            if password == "wrong":
                assert "returned 401" in outcome.said["message"]
                return
            assert outcome.code == 0, outcome.output
            found = {name: (fetcher.target(uri) / name).read_bytes() for name in files}
            assert found == files
