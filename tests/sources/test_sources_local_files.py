"""file:///PATH/: the files of a directory on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from sources.sources_fetcher import Fetcher


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "adapter"
    (made / "more").mkdir(parents=True)
    (made / "adapter_config.json").write_text("{}")
    (made / "more" / "adapter_model.safetensors").write_bytes(b"weights" * 100_000)
    (made / ".cache").mkdir()
    (made / ".cache" / "lock").write_text("")
    return made


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {str(path.relative_to(directory)): path.read_bytes() for path in files if not path.name.startswith(".")}


def test_directory_when_fetched_then_without_hidden_files(fetcher: Fetcher, directory: Path) -> None:
    uri = f"file://{directory}/"
    outcome = fetcher.fetch(uri)
    assert (outcome.code, outcome.said["bytes"]) == (0, 700_002), outcome.output
    assert contents(fetcher.target(uri)) == contents(directory)
    assert fetcher.fetch(uri, digest=outcome.said["digest"]).said["digest"] == outcome.said["digest"]


def test_directory_when_a_file_has_changed_then_refused(fetcher: Fetcher, directory: Path) -> None:
    uri = f"file://{directory}/"
    digest = fetcher.fetch(uri).said["digest"]
    (directory / "adapter_config.json").write_text('{"r": 8}')
    outcome = fetcher.fetch(uri, expected=digest)
    assert outcome.code == 0  # the verified copy is there
    (fetcher.target(uri) / "adapter_config.json").unlink()
    outcome = fetcher.fetch(uri, expected=digest)
    assert (outcome.code, outcome.said["reason"]) == (12, "DigestMismatch")


def test_directory_when_absent_or_empty_then_named(fetcher: Fetcher, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "absent"):
        outcome = fetcher.fetch(f"file://{tmp_path / name}/")
        assert outcome.said["reason"] == "SourceUnreachable"
        assert f"{tmp_path / name} has 0 files" in outcome.said["message"]


def test_file_when_it_is_a_directory_then_hint_names_the_slash(fetcher: Fetcher, directory: Path) -> None:
    assert "ends with /" in fetcher.fetch(f"file://{directory}").said["message"]
