"""s3://, hf:// and oci://: files and directories of a store, fetched by the real program from a real server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sources.sources_fetcher import Fetcher, digest_of
from sources.sources_stores import COMMIT, HubHandler, RegistryHandler, S3Handler, Store, login_of, serving

SECRET = "hush-hush-hush"
BIG = bytes(range(256)) * 80_000
"""20 MB: several pieces."""
DIRECTORY = {"config.json": b"{}", "model.safetensors": BIG, "tokenizer.json": b'{"a": 1}'}


HANDLERS = {"s3": S3Handler, "hf": HubHandler, "oci": RegistryHandler}


@dataclass
class Case:
    """A store with a model, and the URIs of it."""

    store: Store
    fetcher: Fetcher
    directory: str
    file: str
    prefix: str
    """Of names in `Store.files`."""


@pytest.fixture(params=["s3", "hf", "oci"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    with serving(HANDLERS[request.param]) as store:
        environment = {"HF_ENDPOINT": store.url, "HF_TOKEN": SECRET, "HF_HOME": str(tmp_path / "hf")}
        environment |= {"AWS_ENDPOINT_URL": store.url, "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": SECRET}
        host, login = store.url.removeprefix("http://"), login_of("me", SECRET)
        environment |= {"OCI_PLAIN_HTTP": host, "DOCKER_AUTH_CONFIG": json.dumps({"auths": {host: {"auth": login}}})}
        store.login, store.token = f"Basic {login}", f"token-{SECRET}"
        fetcher = Fetcher(tmp_path / "models", tmp_path, {**environment, "AWS_REGION": "eu-west-1"})
        if request.param == "s3":
            made = Case(
                store, fetcher, "s3://bucket/smol/v1/", "s3://bucket/smol/v1/model.safetensors", "bucket/smol/v1/"
            )
        elif request.param == "oci":
            repository = f"oci://{host}/org/model"
            made = Case(store, fetcher, f"{repository}:v1", f"{repository}:model.safetensors", "")
        else:
            made = Case(store, fetcher, "hf://org/model@main", "hf://org/model@main/model.safetensors", "")
        store.files = {made.prefix + name: content for name, content in DIRECTORY.items()}
        yield made
        fetcher.stop_all()


def tree_digest(files: dict[str, bytes]) -> str:
    lines = "".join(f"{digest_of(content)}  {name}\n" for name, content in sorted(files.items()))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.startswith(".")}


def test_file_then_it_is_fetched_with_credentials(case: Case) -> None:
    outcome = case.fetcher.fetch(case.file, digest=digest_of(BIG))
    assert outcome.code == 0, outcome.output
    target = case.fetcher.target(case.file, digest_of(BIG))
    assert target.read_bytes() == BIG
    assert outcome.said["digest"] == digest_of(BIG)
    assert any(SECRET in str(each) or "Signature=" in str(each) for each in case.store.authorizations)
    assert SECRET not in outcome.output


def test_directory_then_all_files_and_their_digest(case: Case) -> None:
    outcome = case.fetcher.fetch(case.directory, digest=tree_digest(DIRECTORY))
    assert outcome.code == 0, outcome.output
    assert contents(case.fetcher.target(case.directory, tree_digest(DIRECTORY))) == DIRECTORY
    assert outcome.said == {
        "digest": tree_digest(DIRECTORY),
        "path": str(case.fetcher.target(case.directory, tree_digest(DIRECTORY)).relative_to(case.fetcher.directory)),
        "bytes": sum(map(len, DIRECTORY.values())),
    }


def test_directory_when_fetched_again_then_nothing_is_requested(case: Case) -> None:
    assert case.fetcher.fetch(case.directory).code == 0
    case.store.requests.clear()
    assert case.fetcher.fetch(case.directory).code == 0
    assert case.store.requests == []


def test_directory_when_a_file_was_changed_then_fetched_again(case: Case) -> None:
    assert case.fetcher.fetch(case.directory).code == 0
    target = case.fetcher.target(case.directory)
    (target / "config.json").write_text("tampered")
    assert case.fetcher.fetch(case.directory).code == 0
    assert contents(target) == DIRECTORY


def test_download_when_cut_then_the_rest_is_requested(case: Case) -> None:
    case.store.cut = 2
    outcome = case.fetcher.fetch(case.directory)
    assert outcome.code == 0, outcome.output
    assert contents(case.fetcher.target(case.directory)) == DIRECTORY
    assert any("bytes=" in request and "bytes=0-" not in request for request in case.store.requests)


def test_digest_when_another_then_nothing_is_kept(case: Case) -> None:
    wrong = "sha256:" + "0" * 64
    for uri in (case.directory, case.file):
        outcome = case.fetcher.fetch(uri, digest=wrong)
        assert outcome.said["reason"] == "DigestMismatch", outcome.output
        assert not case.fetcher.target(uri, wrong).exists()


@pytest.mark.parametrize("status", [401, 403, 404])
def test_store_when_it_refuses_then_the_uri_is_named(case: Case, status: int) -> None:
    case.store.refuse = status
    outcome = case.fetcher.fetch(case.file)
    assert outcome.said["reason"] == "SourceUnreachable", outcome.output
    assert case.file in outcome.said["message"]
    assert SECRET not in outcome.output + outcome.said["message"]


def test_file_when_there_is_none_then_it_is_named(case: Case) -> None:
    case.store.files.clear()
    for uri in (case.file, case.directory):
        outcome = case.fetcher.fetch(uri)
        assert outcome.said["reason"] == "SourceUnreachable", outcome.output
        assert uri in outcome.said["message"]


def test_hub_then_files_are_of_one_commit_and_for_a_runtime(tmp_path: Path) -> None:
    with serving(HubHandler) as store:
        store.files = {**DIRECTORY, "pytorch_model.bin": b"x", "onnx/model.onnx": b"x", ".gitattributes": b"x"}
        fetcher = Fetcher(tmp_path / "models", tmp_path, {"HF_ENDPOINT": store.url, "HF_HOME": str(tmp_path / "hf")})
        assert fetcher.fetch("hf://org/model").code == 0
        assert contents(fetcher.target("hf://org/model")) == DIRECTORY
        assert all(COMMIT in request for request in store.requests if not request.startswith("GET /api/"))


def test_s3_when_a_name_leaves_the_directory_then_refused(tmp_path: Path) -> None:
    with serving(S3Handler) as store:
        store.files = {"bucket/m/../../evil": b"x"}
        fetcher = Fetcher(tmp_path / "models", tmp_path, {"AWS_ENDPOINT_URL": store.url})
        outcome = fetcher.fetch("s3://bucket/m/")
        assert outcome.code != 0
        assert not (tmp_path / "evil").exists()
