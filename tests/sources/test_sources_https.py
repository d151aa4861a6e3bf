from __future__ import annotations

import signal

import pytest
from sources.sources_fetcher import Fetcher, digest_of, size, until
from sources.sources_origin import Origin

HALF = 2_000_000


def _stopped_midway(fetcher: Fetcher, origin: Origin, number: int) -> int:
    """Start a fetch, send it a signal when half of the file is there, and return its exit code."""
    origin.hold_after = HALF
    running = fetcher.start(origin.uri())
    until(lambda: size(fetcher.part(origin.uri())) == HALF)
    running.process.send_signal(number)
    outcome = running.outcome()
    origin.go_on.set()
    origin.hold_after = None
    return outcome.code


def test_fetch_from_https_then_brings_the_file_and_says_so(fetcher: Fetcher, origin: Origin) -> None:
    outcome = fetcher.fetch(origin.uri())

    assert outcome.code == 0, outcome.output
    target = fetcher.target(origin.uri())
    assert target.read_bytes() == origin.content
    assert outcome.said == {
        "digest": digest_of(origin.content),
        "path": str(target.relative_to(fetcher.directory)),
        "bytes": len(origin.content),
    }


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_fetch_when_killed_midway_then_next_requests_only_rest(
    fetcher: Fetcher, origin: Origin, number: signal.Signals
) -> None:
    code = _stopped_midway(fetcher, origin, number)
    assert code == (143 if number == signal.SIGTERM else -9)

    outcome = fetcher.fetch(origin.uri())

    assert outcome.code == 0, outcome.output
    assert origin.ranges_asked == [None, f"bytes={HALF}-"]
    assert fetcher.target(origin.uri()).read_bytes() == origin.content
    assert outcome.said["digest"] == digest_of(origin.content)
    assert not fetcher.part(origin.uri()).exists()


def test_fetch_when_cut_off_then_goes_on_by_itself(fetcher: Fetcher, origin: Origin) -> None:
    origin.cut_after = HALF

    outcome = fetcher.fetch(origin.uri(), digest=digest_of(origin.content))

    assert outcome.code == 0, outcome.output
    assert origin.ranges_asked == [None, f"bytes={HALF}-"]


def test_fetch_when_the_server_ignores_ranges_then_begins_anew(fetcher: Fetcher, origin: Origin) -> None:
    origin.cut_after, origin.ranges = HALF, False

    outcome = fetcher.fetch(origin.uri())

    assert outcome.code == 0, outcome.output
    assert fetcher.target(origin.uri()).read_bytes() == origin.content


def test_fetch_when_the_file_changed_meanwhile_then_begins_anew(fetcher: Fetcher, origin: Origin) -> None:
    _stopped_midway(fetcher, origin, signal.SIGKILL)
    origin.content, origin.etag = origin.content[::-1], '"two"'

    outcome = fetcher.fetch(origin.uri())

    assert outcome.said["digest"] == digest_of(origin.content)


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_fetch_when_no_strong_validator_then_starts_anew(fetcher: Fetcher, origin: Origin, etag: str | None) -> None:
    origin.cut_after, origin.etag = HALF, etag

    outcome = fetcher.fetch(origin.uri())

    assert outcome.said["digest"] == digest_of(origin.content)
    assert origin.ranges_asked == [None, None]


def test_fetch_when_the_server_sends_another_range_then_rejected(fetcher: Fetcher, origin: Origin) -> None:
    origin.cut_after, origin.lie = HALF, True

    outcome = fetcher.fetch(origin.uri())

    assert outcome.said["digest"] == digest_of(origin.content)
    assert origin.ranges_asked == [None, f"bytes={HALF}-", None]


def test_fetch_when_only_last_step_is_missing_then_no_download(fetcher: Fetcher, origin: Origin) -> None:
    part = fetcher.part(origin.uri())
    part.parent.mkdir(parents=True)
    part.write_bytes(origin.content)
    part.with_name(part.name + ".validator").write_text('"one"')

    outcome = fetcher.fetch(origin.uri())

    assert outcome.said["digest"] == digest_of(origin.content)
    assert origin.ranges_asked == [f"bytes={len(origin.content)}-"]


def test_fetch_when_the_server_is_busy_then_tries_again(fetcher: Fetcher, origin: Origin) -> None:
    origin.statuses = [503, 429]

    outcome = fetcher.fetch(origin.uri())

    assert outcome.code == 0, outcome.output
    assert len(origin.asked) == 3


def test_fetch_when_server_stays_busy_then_ends_with_its_answer(fetcher: Fetcher, origin: Origin) -> None:
    origin.statuses = [503] * 9

    outcome = fetcher.fetch(origin.uri())

    assert (outcome.code, outcome.said["reason"]) == (10, "SourceUnreachable")
    assert "503" in outcome.said["message"]
    assert len(origin.asked) == 4


def test_fetch_when_the_file_is_not_there_then_says_so_at_once(fetcher: Fetcher, origin: Origin) -> None:
    origin.statuses = [404]

    outcome = fetcher.fetch(origin.uri("/model.gguf?token=hush"))

    assert (outcome.code, outcome.said["reason"]) == (10, "SourceUnreachable")
    assert "returned 404" in outcome.said["message"]
    assert len(origin.asked) == 1
    assert "hush" not in outcome.output + str(outcome.said)


def test_fetch_when_the_length_of_file_is_unknown_then_refused(fetcher: Fetcher, origin: Origin) -> None:
    origin.length = False

    outcome = fetcher.fetch(origin.uri())

    assert outcome.code == 10
    assert "sends no size for" in outcome.said["message"]


def test_fetch_when_the_server_sends_chunks_then_needs_no_length(fetcher: Fetcher, origin: Origin) -> None:
    origin.chunked = True

    assert fetcher.fetch(origin.uri()).said["digest"] == digest_of(origin.content)


def test_fetch_when_certificate_is_not_trusted_then_names_bundle(fetcher: Fetcher, origin: Origin) -> None:
    fetcher.environment.clear()

    outcome = fetcher.fetch(origin.uri())

    assert outcome.code == 10
    assert "is not trusted" in outcome.said["message"]
    assert "SSL_CERT_FILE" in outcome.said["message"]
    assert origin.asked == []


def test_fetch_when_nobody_listens_then_says_refused(fetcher: Fetcher) -> None:
    outcome = fetcher.fetch("https://localhost:1/model.gguf")

    assert outcome.code == 10
    assert outcome.said["message"].startswith("cannot reach localhost: Connection refused")


def test_fetch_when_uri_has_credentials_then_uses_and_hides_them(fetcher: Fetcher, origin: Origin) -> None:
    uri = origin.uri().replace("https://", "https://alice:hush%21@")
    origin.redirects = {"/model.gguf": origin.uri("/other", host="127.0.0.1")}

    outcome = fetcher.fetch(uri)

    assert outcome.code == 0, outcome.output
    assert [asked.authorization for asked in origin.asked] == ["Basic YWxpY2U6aHVzaCE=", None]
    assert "hush" not in outcome.output + str(outcome.said)
    note = fetcher.target(uri).with_name(".headrace.json").read_text()
    assert "hush" not in note
    assert "alice" not in note


def test_fetch_when_redirected_then_follows(fetcher: Fetcher, origin: Origin) -> None:
    origin.redirects = {"/model.gguf": "/a", "/a": origin.uri("/b?signature=1")}

    assert fetcher.fetch(origin.uri()).said["digest"] == digest_of(origin.content)
    assert [asked.path for asked in origin.asked] == ["/model.gguf", "/a", "/b?signature=1"]


def test_fetch_when_redirected_in_a_circle_then_gives_up(fetcher: Fetcher, origin: Origin) -> None:
    origin.redirects = {"/model.gguf": "/model.gguf"}

    outcome = fetcher.fetch(origin.uri())

    assert outcome.code == 10
    assert "redirects more than 5 times" in outcome.said["message"]


def test_fetch_when_redirected_to_plain_http_then_refuses(fetcher: Fetcher, origin: Origin) -> None:
    origin.redirects = {"/model.gguf": "http://localhost/model.gguf"}

    outcome = fetcher.fetch(origin.uri())

    assert (outcome.code, outcome.said["reason"]) == (11, "SourceNotAllowed")
