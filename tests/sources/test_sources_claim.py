"""pvc://: the file is verified where it is, and nothing is written beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sources.sources_fetcher import Fetcher, digest_of

URI = "pvc://models/smol/model.gguf"
CONTENT = b"weights" * 300_000
OTHER = "sha256:" + "0" * 64


@pytest.fixture
def file(fetcher: Fetcher) -> Path:
    """The claim is mounted as the model directory, and has the file."""
    path = fetcher.directory / "smol/model.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    return path


def test_fetch_of_a_claim_when_it_succeeds_then_digest_is_known(fetcher: Fetcher, file: Path) -> None:
    """The file stays where it was."""
    outcome = fetcher.fetch(URI)

    assert outcome.code == 0
    assert outcome.said == {"digest": digest_of(CONTENT), "path": "smol/model.gguf", "bytes": len(CONTENT)}
    assert fetcher.target(URI) == file


def test_fetch_of_a_claim_then_nothing_is_written(fetcher: Fetcher, file: Path) -> None:
    fetcher.fetch(URI, digest=digest_of(CONTENT))

    assert [path for path in fetcher.directory.rglob("*") if path.is_file()] == [file]


@pytest.mark.parametrize("how", ["digest", "expected"])
def test_fetch_of_a_claim_when_another_file_then_digest_mismatch(fetcher: Fetcher, file: Path, how: str) -> None:
    outcome = fetcher.fetch(
        URI, digest=OTHER if how == "digest" else None, expected=OTHER if how == "expected" else None
    )

    assert (outcome.code, outcome.said["reason"]) == (12, "DigestMismatch")
    assert OTHER in outcome.said["message"]
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize("path", ["smol/missing.gguf", "smol"])
def test_fetch_of_a_claim_when_no_such_file_then_says_so(fetcher: Fetcher, file: Path, path: str) -> None:
    del file
    outcome = fetcher.fetch(f"pvc://models/{path}")

    assert outcome.said["reason"] == "SourceUnreachable"
    assert f"pvc://models/{path}" in outcome.said["message"]


@pytest.mark.parametrize("uri", ["pvc://models/../../etc/passwd", "pvc://models//etc/passwd", "pvc://models"])
def test_fetch_of_a_claim_when_path_leads_elsewhere_then_refused(fetcher: Fetcher, uri: str) -> None:
    outcome = fetcher.fetch(uri)

    assert outcome.said["reason"] == "SourceUnreachable"
    assert "pvc://CLAIM/PATH" in outcome.said["message"]
