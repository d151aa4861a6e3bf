"""What only shows when the server's two ends are in hand: raw ASGI messages in, raw messages out."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import unquote

import pytest

from headrace import headers
from headrace.api import vocabulary as v
from headrace.errors import HeadraceError
from headrace.http import incoming
from headrace.http.answers import error_body
from headrace.serving import exchange
from headrace.serving.errors import Draining
from headrace.serving.exchange import Endpoints, Exchange

Message = MutableMapping[str, Any]


async def asked(handler: exchange.Handler, *incoming: Message) -> list[Message]:
    """Return what the application sends when these messages come in, and then nothing more."""
    arriving, sent = iter(incoming), list[Message]()

    async def receive() -> Message:
        for message in arriving:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/x", "headers": []}
    await Endpoints({("POST", "/x"): handler})(scope, receive, send)
    return sent


INFER = "/v2/models/{name}/infer"


@pytest.mark.parametrize(
    ("method", "path", "status", "answer"),
    [
        ("POST", "/v2/models/m/infer", 200, b'{"name":"m"}'),
        ("POST", "/v2/models/org%2Fm/infer", 200, b'{"name":"org/m"}'),
        ("GET", "/v2/models/m/infer", 405, b"POST"),
        ("DELETE", "/v2/models/m", 405, b"GET, HEAD, POST"),
        ("HEAD", "/v2/models/m", 200, b'{"name":"m"}'),
        ("POST", "/v2/models/org/m/infer", 404, None),
        ("POST", "/v2/models/../infer", 404, None),
    ],
)
async def test_path_when_it_matches_a_pattern_then_its_handler_runs(
    method: str, path: str, status: int, answer: bytes | None
) -> None:
    """The handler gets the path's parameters; a path without the method is 405 with its methods."""

    async def name_it(exchange: Exchange) -> None:
        await exchange.respond(exchange.parameters)

    sent = list[Message]()

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    served = Endpoints(
        {("POST", INFER): name_it, ("GET", "/v2/models/{name}"): name_it, ("POST", "/v2/models/{name}"): name_it}
    )
    await served(
        {"type": "http", "method": method, "path": unquote(path), "raw_path": path.encode(), "headers": []},
        receive,
        send,
    )

    (message,) = sent  # head and body are one write
    assert message["status"] == status
    if answer is not None:
        assert answer == (dict(message["headers"])[b"allow"] if status == 405 else message["body"])


async def read_it(exchange: Exchange) -> None:
    await exchange.respond({"bytes": len(await exchange.body())})


def piece(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_body_in_pieces_then_it_is_whole() -> None:
    (answer,) = await asked(read_it, piece(b"ab", more=True), piece(b"c", more=False))

    assert answer["body"] == b'{"bytes":3}'


async def test_body_when_it_stops_coming_then_the_request_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "BODY_SECONDS", 0.02)

    (answer,) = await asked(read_it, piece(b"ab", more=True))

    assert answer["status"] == 408
    assert (b"connection", b"close") in answer["headers"]
    assert json.loads(answer["body"])["error"]["code"] == "request_timeout"


async def test_client_when_it_leaves_within_its_body_then_no_response(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    sent = await asked(read_it, piece(b"ab", more=True), {"type": "http.disconnect"})

    assert sent == []
    assert "POST /x 499" in caplog.text


async def test_handler_when_it_fails_then_the_client_sees_its_type() -> None:
    async def fail(_: Exchange) -> None:
        raise ValueError("the prompt was: secret")

    (answer,) = await asked(fail)

    error = json.loads(answer["body"])["error"]
    assert (answer["status"], error["type"], error["code"]) == (500, "server_error", "internal_error")
    assert "ValueError" in error["message"]
    assert "secret" not in error["message"]


async def test_handler_when_it_fails_in_a_stream_then_an_error_event() -> None:
    async def fail(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.write(b"data: {}\n\n")
        raise Draining("the end")

    *_, last = await asked(fail)

    event, end, rest = last["body"].decode().split("\n\n")
    assert json.loads(event.removeprefix("data: "))["error"]["code"] == "draining"
    assert (end, rest, last["more_body"]) == ("data: [DONE]", "", False)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (v.OOM_KILLED, "oom_killed"),
        (v.NAME_TAKEN, "name_taken"),
        (v.STARTUP_DEADLINE_EXCEEDED, "startup_deadline_exceeded"),
        (v.NO_CAPACITY_FOR_SURGE, "no_capacity_for_surge"),
        (v.SUSPENDED, "suspended"),
        (headers.INVALID_API_KEY, "invalid_api_key"),
    ],
)
def test_error_then_its_code_is_the_reason_in_snake_case(reason: str, code: str) -> None:
    error = HeadraceError("it failed")
    error.reason = reason

    assert error_body(error)["error"]["code"] == code
