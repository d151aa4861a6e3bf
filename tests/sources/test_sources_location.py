from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.sources.location import claim_of, is_directory, location, redacted, scheme_of

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://host/model.gguf", "https://host/model.gguf"),
        ("https://user:secret@host:8443/model.gguf", "https://host:8443/model.gguf"),
        ("https://user:se@cret@host/model.gguf", "https://host/model.gguf"),
        ("https://host/model.gguf?token=secret", "https://host/model.gguf"),
        ("https://host/model.gguf#secret", "https://host/model.gguf"),
        ("https://host?token=/secret@x", "https://host"),
        ("https://[::1/model.gguf?token=secret", "https://[::1/model.gguf"),
        ("package://dist@1.0/dir/model.gguf", "package://dist@1.0/dir/model.gguf"),
        ("oci://host:5000/org/model@sha256:0", "oci://host:5000/org/model@sha256:0"),
        ("file:///models/model.gguf", "file:///models/model.gguf"),
    ],
)
def test_redacted_for_a_uri_then_shows_no_secret(uri: str, shown: str) -> None:
    assert redacted(uri) == shown


@pytest.mark.parametrize(
    ("uri", "basename"),
    [
        ("https://host/dir/model.gguf?token=secret", "model.gguf"),
        ("package://dist@1.0/dir/model.gguf", "model.gguf"),
        ("oci://host:5000/org/model:v1", "model_v1"),
        ("file:///dir/..", "model"),
        ("file:///dir/.headrace.json", "headrace.json"),
        ("file:///dir/a b%2F", "a_b_2F"),
        ("https://host/", "model"),
        ("https://host/" + "x" * 500, "x" * 128),
    ],
)
def test_location_of_a_uri_then_ends_in_a_harmless_basename(uri: str, basename: str) -> None:
    assert location(uri, None).partition("/")[2] == basename


@pytest.mark.parametrize(
    ("uri", "claim", "path"),
    [
        ("pvc://models/model.gguf", "models", "model.gguf"),
        ("pvc://team.models-1/a/b@c/model+q8.gguf", "team.models-1", "a/b@c/model+q8.gguf"),
    ],
)
def test_location_when_claims_file_then_whatever_its_digest(uri: str, claim: str, path: str) -> None:
    assert (claim_of(uri), location(uri, None), location(uri, DIGEST)) == (claim, path, path)


@pytest.mark.parametrize("uri", ["https://models/x", "pvc://models", "pvc://models/../x", "pvc://models/x\n", "pvc://"])
def test_claim_of_anything_else_then_none(uri: str) -> None:
    assert claim_of(uri) is None


@pytest.mark.parametrize("uri", ["s3://bucket/a/", "file:///a/", "hf://org/model", "hf://org/model@v1"])
def test_source_when_no_file_is_named_then_a_directory(uri: str) -> None:
    assert is_directory(uri)


@pytest.mark.parametrize("uri", ["s3://bucket/a/b", "hf://org/model/m.gguf", "https://host/a/", "file:///a", "", "hf:"])
def test_source_when_a_file_is_named_then_no_directory(uri: str) -> None:
    assert not is_directory(uri)


def test_location_when_uri_or_digest_differs_then_differs() -> None:
    uri = "https://host/model.gguf"

    assert len({location(uri, None), location(uri, DIGEST), location(uri + "?v=2", None)}) == 3


@given(uri=st.one_of(st.text(max_size=200), st.from_regex(r"pvc://[a-z./-]*/[a-z./-]*", fullmatch=True)))
def test_location_of_any_text_then_stays_in_the_model_directory(uri: str) -> None:
    """Whatever a user writes, nothing raises, and the path has two harmless parts, or is one in a claim."""
    redacted(uri)
    scheme_of(uri)

    if claim_of(uri) is not None:
        assert not Path(location(uri, None)).is_absolute()
        assert not {"", ".", ".."} & set(location(uri, None).split("/"))
        return
    assert re.fullmatch(r"[0-9a-f]{16}/[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}", location(uri, None))


@given(
    secret=st.text(alphabet="0123456789abcdef", min_size=12, max_size=20),
    form=st.sampled_from(["https://u:{}@host/m", "https://{}@host/m", "https://host/m?a={}&b=1", "https://h/m#{}"]),
)
def test_redacted_of_any_secret_then_hides_it(secret: str, form: str) -> None:
    """A secret in the places that URIs have for secrets is never shown."""
    assert secret not in redacted(form.format(secret))
