"""`headrace chat`: what a person sees of an answer that comes whole, cut off, or is stopped."""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest
from cli.cli_gateway import DONE, HEAD, LAST, FakeGateway, chunk, finished, refused, said, sent, stage
from cli.cli_terminal import terminal

from headrace.cli.client import ApiClient
from headrace.cli.main import INTERRUPTED, main

WHOLE = HEAD + stage("loading-weights 41%") + said("Pa") + said("ris") + said(".") + DONE
OTHER = HEAD + said("Rome.") + DONE
LONG = HEAD + said("Paris is") + finished("length") + DONE
CUT = HEAD + said("Pa")
ERROR = b'{"error": {"message": "no such model: m"}}'
REFUSED = b"HTTP/1.1 404 Not Found\r\ncontent-length: %d\r\n\r\n%s" % (len(ERROR), ERROR)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))


def _use(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, *questions: str) -> None:
    monkeypatch.setattr(ApiClient, "instance", lambda _: {"endpoint": gateway.endpoint})
    monkeypatch.setattr(ApiClient, "get", lambda *_: {"items": [{"metadata": {"name": "m"}, "spec": {"model": {}}}]})
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{question}\n" for question in questions)))


def test_answer_when_to_terminal_then_text_stays_and_stage_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FakeGateway(sent(WHOLE)) as gateway, terminal(monkeypatch) as seen:
        _use(gateway, monkeypatch)
        assert main(["chat", "m", "capital?"]) == 0
        assert seen.lines() == ["Paris."]


def test_conversation_when_model_does_not_exist_then_not_begun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeGateway() as gateway:
        _use(gateway, monkeypatch, "capital?")
        assert main(["chat", "nosuch"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "error: there is no model 'nosuch'. Models: m\n")


def test_stage_when_longer_than_terminal_is_wide_then_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeGateway(sent(WHOLE)) as gateway, terminal(monkeypatch, columns=8) as seen:
        _use(gateway, monkeypatch)
        assert main(["chat", "m", "capital?"]) == 0
        assert seen.lines() == ["Paris."]


@pytest.mark.parametrize(
    "answer",
    [CUT, HEAD, HEAD + stage("pending"), CUT + LAST, HEAD + b"40\r\ndata: {", CUT + chunk(b"data: {")],
    ids=["between chunks", "before the first", "after a stage", "without DONE", "in a chunk", "in a line"],
)
def test_answer_when_it_is_cut_off_then_that_is_an_error(
    answer: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeGateway(sent(answer)) as gateway:
        _use(gateway, monkeypatch)
        assert main(["chat", "m", "capital?"]) == 1
    complained = capsys.readouterr().err
    assert complained.startswith("error: the answer was cut off")
    assert "and retry" in complained


def test_answer_when_cut_off_at_terminal_then_error_on_own_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FakeGateway(sent(CUT)) as gateway, terminal(monkeypatch, columns=400) as seen:
        _use(gateway, monkeypatch)
        main(["chat", "m", "capital?"])
        partial, error = seen.lines()
    assert partial == "Pa"
    assert error.startswith("error: ")


@pytest.mark.parametrize("failed", [CUT, REFUSED], ids=["cut off", "refused"])
def test_conversation_when_answer_fails_then_question_is_dropped(
    failed: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeGateway(sent(OTHER), sent(failed), sent(OTHER)) as gateway:
        _use(gateway, monkeypatch, "first", "second", "third")
        assert main(["chat", "m"]) == 1  # nobody typed these lines: whoever piped them learns of the failure
    out, err = capsys.readouterr()
    assert out.count("Rome.") == 2
    assert err.count("error: ") == 1
    assert [message["content"] for message in gateway.asked[2]["messages"]] == ["first", "Rome.", "third"]


@pytest.mark.parametrize(
    ("status", "body"), [(b"502 Bad Gateway", b"<html>"), (b"500 Oops", b'{"error": "no"}'), (b"404 No", b"")]
)
def test_answer_when_a_foreign_error_then_status_is_printed(
    status: bytes, body: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeGateway(sent(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\n\r\n" + body)) as gateway:
        _use(gateway, monkeypatch)
        assert main(["chat", "m", "capital?"]) == 1
    assert status[:3].decode() in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ((), {"temperature": 0, "max_tokens": 512}),
        (("--temperature", "0.7", "--max-tokens", "9"), {"temperature": 0.7, "max_tokens": 9}),
    ],
)
def test_request_when_options_vary_then_bounded_and_repeatable(
    options: tuple[str, ...], asked: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeGateway(sent(WHOLE)) as gateway:
        _use(gateway, monkeypatch)
        assert main(["chat", "m", "capital?", *options]) == 0
    assert {name: gateway.asked[0][name] for name in ("temperature", "max_tokens")} == asked


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (LONG, "cut off at 9 tokens; --max-tokens sets the limit\n"),
        (HEAD + said("Paris.") + finished("stop") + DONE, ""),
    ],
)
def test_answer_when_it_ends_by_its_length_then_that_is_said(
    answer: bytes, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeGateway(sent(answer)) as gateway:
        _use(gateway, monkeypatch)
        assert main(["chat", "m", "capital?", "--max-tokens", "9"]) == 0
    assert capsys.readouterr().err == told


def test_answer_when_default_limit_is_too_long_then_shortened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeGateway(sent(refused("context_length_exceeded")), sent(LONG)) as gateway:
        _use(gateway, monkeypatch)
        assert main(["chat", "m", "capital?"]) == 0
    assert "max_tokens" not in gateway.asked[1]
    assert capsys.readouterr().err == "cut off: the conversation has reached the model's context length\n"


def test_answer_when_requested_limit_is_too_long_then_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeGateway(sent(refused("context_length_exceeded"))) as gateway:
        _use(gateway, monkeypatch)
        assert main(["chat", "m", "capital?", "--max-tokens", "9999"]) == 1
    assert capsys.readouterr().err == "error: it is too long\n"


def _interrupted_at_pa(
    monkeypatch: pytest.MonkeyPatch, words: list[str], *questions: str
) -> tuple[int, list[str], bool]:
    """Press Ctrl-C when "Pa" is to be seen; return the exit code, the screen, and whether the gateway was let go."""
    let_go: list[bytes] = []

    def begin(connection: socket.socket) -> None:
        connection.sendall(HEAD + said("Pa"))
        let_go.append(connection.recv(1))

    with FakeGateway(begin, *([sent(OTHER)] if questions else [])) as gateway, terminal(monkeypatch) as seen:
        _use(gateway, monkeypatch, *questions)

        def press() -> None:
            seen.wait_for("Pa")
            os.kill(os.getpid(), signal.SIGINT)

        pressing = threading.Thread(target=press)
        pressing.start()
        code = main(["chat", "m", *words])
        pressing.join()
        lines = seen.lines()
    return code, lines, let_go == [b""]


def test_interrupt_when_an_answer_streams_then_the_stream_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its line ends, and the gateway's connection is closed."""
    assert _interrupted_at_pa(monkeypatch, ["capital?"]) == (INTERRUPTED, ["Pa"], True)


def test_interrupt_when_in_a_conversation_then_only_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    code, lines, let_go = _interrupted_at_pa(monkeypatch, [], "capital?", "another?")
    assert (code, let_go) == (0, True)
    assert lines == ["Ctrl-D ends the conversation, Ctrl-C an answer.", "you> Pa", "you> Rome.", "you>"]
