from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from disks import fill, grow, small_disk
from sources.sources_fetcher import Fetcher, digest_of, size, until
from sources.sources_origin import Origin

CONTENT = b"weights" * 100_000
OTHER = b"others!" * 100_000


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "original model.gguf"
    path.write_bytes(CONTENT)
    return path


def test_fetch_of_a_file_when_original_is_edited_then_copy_stays(fetcher: Fetcher, original: Path) -> None:
    outcome = fetcher.fetch(original.as_uri())
    original.write_bytes(OTHER)

    assert outcome.said["digest"] == digest_of(CONTENT)
    assert fetcher.target(original.as_uri()).read_bytes() == CONTENT


def test_fetch_again_then_neither_asks_the_source_nor_writes(fetcher: Fetcher, origin: Origin) -> None:
    first = fetcher.fetch(origin.uri())
    before = fetcher.target(origin.uri()).stat()

    second = fetcher.fetch(origin.uri())

    assert second.said == first.said
    assert fetcher.target(origin.uri()).stat().st_mtime_ns == before.st_mtime_ns
    assert len(origin.asked) == 1


def test_fetch_again_when_the_file_was_touched_then_read_once(fetcher: Fetcher, origin: Origin) -> None:
    fetcher.fetch(origin.uri())
    target = fetcher.target(origin.uri())
    os.utime(target)

    assert fetcher.fetch(origin.uri()).code == 0
    assert len(origin.asked) == 1
    assert str(target.stat().st_mtime_ns) in target.with_name(".headrace.json").read_text()


def test_fetch_again_when_the_file_was_damaged_then_refetched(fetcher: Fetcher, original: Path) -> None:
    fetcher.fetch(original.as_uri())
    target = fetcher.target(original.as_uri())
    target.write_bytes(OTHER)

    assert fetcher.fetch(original.as_uri()).said["digest"] == digest_of(CONTENT)
    assert target.read_bytes() == CONTENT


def test_fetch_when_digest_is_wrong_then_keeps_nothing_and_heals(fetcher: Fetcher, origin: Origin) -> None:
    digest, right = digest_of(origin.content), origin.content
    origin.content = b"forged" + right[6:]

    outcome = fetcher.fetch(origin.uri(), digest=digest)

    assert (outcome.code, outcome.said["reason"]) == (12, "DigestMismatch")
    assert digest in outcome.said["message"]
    assert not fetcher.part(origin.uri(), digest).exists()
    assert not fetcher.target(origin.uri(), digest).exists()

    origin.content = right
    assert fetcher.fetch(origin.uri(), digest=digest).said["digest"] == digest


def test_fetch_without_digest_when_another_file_then_refused(fetcher: Fetcher, original: Path) -> None:
    fetcher.fetch(original.as_uri())
    fetcher.target(original.as_uri()).unlink()
    original.write_bytes(OTHER)

    outcome = fetcher.fetch(original.as_uri())

    assert (outcome.code, outcome.said["reason"]) == (12, "DigestMismatch")


def test_fetch_when_another_file_there_then_drops_it_and_heals(fetcher: Fetcher, original: Path) -> None:
    """A file with the expected digest replaces it once the source has it."""
    original.write_bytes(OTHER)
    fetcher.fetch(original.as_uri())

    refused = fetcher.fetch(original.as_uri(), expected=digest_of(CONTENT))
    original.write_bytes(CONTENT)
    healed = fetcher.fetch(original.as_uri(), expected=digest_of(CONTENT))

    assert (refused.code, refused.said["reason"]) == (12, "DigestMismatch")
    assert (healed.code, healed.said["digest"]) == (0, digest_of(CONTENT))
    assert fetcher.target(original.as_uri()).read_bytes() == CONTENT


def test_fetch_when_another_under_way_then_waits_and_finds_file(fetcher: Fetcher, origin: Origin) -> None:
    origin.hold_after = 2_000_000
    first = fetcher.start(origin.uri())
    until(lambda: size(fetcher.part(origin.uri())) == 2_000_000)
    second = fetcher.start(origin.uri())
    assert second.process.stdout is not None
    assert second.process.stdout.readline() == "2.0 MB\n"
    assert second.process.poll() is None

    origin.go_on.set()

    assert first.outcome().said == second.outcome().said
    assert len(origin.asked) == 1


def test_fetch_when_file_cannot_fit_then_says_so_before_filling(fetcher: Fetcher, origin: Origin) -> None:
    with small_disk(fetcher.directory, 1024):
        outcome = fetcher.fetch(origin.uri())

        assert (outcome.code, outcome.said["reason"]) == (13, "NoSpace")
        assert f"no space in {fetcher.target(origin.uri()).parent}" in outcome.said["message"]
        assert f"{len(origin.content)} bytes are needed" in outcome.said["message"]
        assert not fetcher.part(origin.uri()).exists()


def test_fetch_when_disk_is_full_midway_then_frees_it_and_heals(fetcher: Fetcher, origin: Origin) -> None:
    origin.chunked = True  # so that nobody knows the size before
    with small_disk(fetcher.directory, 1024):
        outcome = fetcher.fetch(origin.uri())

        assert (outcome.code, outcome.said["reason"]) == (13, "NoSpace")
        assert "No space left on device" in outcome.said["message"]
        assert not fetcher.part(origin.uri()).exists()

        grow(fetcher.directory, 16 * 1024)
        assert fetcher.fetch(origin.uri()).code == 0


def test_fetch_when_the_disk_was_full_before_then_says_no_space(fetcher: Fetcher, origin: Origin) -> None:
    with small_disk(fetcher.directory, 64):
        fill(fetcher.directory)
        outcome = fetcher.fetch(origin.uri())

    assert (outcome.code, outcome.said["reason"]) == (13, "NoSpace")
    assert str(fetcher.directory) in outcome.said["message"]


def test_fetch_when_files_may_not_be_so_large_then_says_no_space(fetcher: Fetcher, original: Path) -> None:
    outcome = fetcher.fetch(
        original.as_uri(), limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    )

    assert (outcome.code, outcome.said["reason"]) == (13, "NoSpace")
    assert fetcher.fetch(original.as_uri()).code == 0


@pytest.mark.parametrize(
    ("uri", "code", "words"),
    [
        ("file:///nowhere/model.gguf", 10, "cannot read /nowhere/model.gguf: No such file or directory"),
        ("file:///dev/zero", 10, "/dev/zero is not a regular file"),
        ("file:///", 10, "is not a file on this machine"),
        ("file://server/model.gguf", 10, "is not a file on this machine"),
        ("ftp://server/model.gguf", 11, "unknown scheme ftp://"),
        ("http://server/model.gguf", 11, "unknown scheme http://"),
        ("https://server:port/model.gguf", 10, "is not a URL"),
        ("https://:443/model.gguf", 10, "has no host"),
        (f"https://{'x' * 70}.test/model.gguf", 10, "is not a URL"),
        ("package://--editable@1/x", 10, "is not a package URI"),
    ],
)
def test_fetch_of_an_impossible_uri_then_names_the_fault(fetcher: Fetcher, uri: str, code: int, words: str) -> None:
    outcome = fetcher.fetch(uri)

    assert outcome.code == code
    assert words in outcome.said["message"]


def test_fetch_when_the_cause_is_long_then_report_still_is_whole(fetcher: Fetcher) -> None:
    outcome = fetcher.fetch("file:///" + "€" * 2000)

    assert outcome.said["reason"] == "SourceUnreachable"


def test_fetch_when_the_model_directory_is_a_file_then_names_it(fetcher: Fetcher, original: Path) -> None:
    fetcher.directory.write_text("not a directory")

    outcome = fetcher.fetch(original.as_uri())

    assert outcome.code == 10
    assert outcome.said["reason"] == "FetchFailed"
    assert "cannot write to" in outcome.said["message"]


def test_fetch_with_a_malformed_digest_then_is_a_usage_error(fetcher: Fetcher, original: Path) -> None:
    outcome = fetcher.fetch(original.as_uri(), digest="sha256:abc")

    assert outcome.code == 2
    assert "64 lower-case hexadecimal digits" in outcome.output
