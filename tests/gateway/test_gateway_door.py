"""What comes through the door: keys and tenants, bodies, headers, and attempts to be understood in two ways."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from gateway.gateway_client import CHAT, KEY_A, KEY_B, KEY_NARROW, Answer, chat, get, request, send, sent
from gateway.gateway_world import World, until

from headrace.events.secret import token

BODY = {"model": "echo"}
ERRORS = {
    "no JSON": (request(body=b"{"), 400, "invalid_request", None),
    "no UTF-8": (request(body=b'{"model": "\xff"}'), 400, "invalid_request", None),
    "no object": (request(body=[1]), 400, "invalid_request", None),
    "no model": (request(body={"messages": []}), 400, "invalid_request", "model"),
    "model of another type": (request(body={"model": 1}), 400, "invalid_request", "model"),
    "unknown model": (request(body={"model": "nobody"}), 404, "model_not_found", "model"),
    "too large": (request(body=b" " * (4 * 1024 * 1024 + 1)), 413, "body_too_large", None),
    "far too large": (request(headers={"content-length": "99999999999"}), 413, "body_too_large", None),
    "too many headers": (
        request(body=BODY, headers={f"x-{index}": "a" * 1000 for index in range(40)}),
        431,
        "head_too_large",
        None,
    ),
    "endless header": (b"GET / HTTP/1.1\r\nx: " + b"a" * 100_000, 431, "head_too_large", None),
    "compressed": (
        request(body=b"\x1f\x8b", headers={"content-encoding": "gzip"}),
        415,
        "unsupported_content_encoding",
        None,
    ),
    "another path": (request("GET", "/v2/nothing"), 404, "not_found", None),
    "another method": (request("DELETE", CHAT), 405, "method_not_allowed", None),
    "another method on models": (request("POST", "/v1/models"), 405, "method_not_allowed", None),
    "unknown model's card": (request("GET", "/v1/models/nobody"), 404, "model_not_found", "model"),
    "two lengths": (
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        400,
        "invalid_request",
        None,
    ),
    "length and chunks": (
        b"POST /v1/completions HTTP/1.1\r\nhost: [::1]\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0",
        400,
        "invalid_request",
        None,
    ),
    "odd transfer encoding": (
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        400,
        "invalid_request",
        None,
    ),
    "space before the colon": (
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length : 2\r\n\r\n{}",
        400,
        "invalid_request",
        None,
    ),
    "folded header": (
        b"POST /v1/completions HTTP/1.1\r\nhost: [::1]\r\ncontent-length: 2\r\n transfer-encoding: chunked\r\n\r\n{}",
        400,
        "invalid_request",
        None,
    ),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "invalid_request", None),
}


@pytest.mark.parametrize(("raw", "status", "code", "param"), ERRORS.values(), ids=ERRORS.keys())
async def test_request_when_wrong_then_the_error_has_openais_shape_and_names_it(
    door: int, raw: bytes, status: int, code: str, param: str | None
) -> None:
    answer = await send(door, raw)
    error = answer.json()["error"]
    assert (answer.status, error["code"], error["param"]) == (status, code, param)
    assert error["message"]
    assert re.fullmatch("[A-Z][A-Za-z]+", answer.headers["x-headrace-reason"])


async def test_body_when_forwarded_then_it_is_the_same_bytes_in_the_same_order(world: World) -> None:
    body = b'{ "stream":false,"model" : "echo", "x": 1e400, "b":"\\u00e9", "model":"echo" }\n'
    await world.loop.route()
    replica = await world.replica()
    assert (await send(world.port, request(body=body))).body == body
    assert replica.requests[0].body == body


async def test_body_with_a_bom_then_the_rest_is_forwarded(world: World) -> None:
    await world.loop.route()
    await world.replica()
    body = json.dumps(BODY).encode()
    answer = await send(world.port, request(body=b"\xef\xbb\xbf" + body))
    assert (answer.status, answer.body) == (200, body)


async def test_body_when_compressed_then_the_coding_is_named(door: int) -> None:
    answer = await send(door, request(body=b"\x1f\x8b", headers={"content-encoding": "gzip"}))
    assert "Content-Encoding: gzip" in answer.json()["error"]["message"]
    assert (await send(door, request(body=BODY, headers={"content-encoding": "identity"}))).status == 404


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", CHAT, "POST"),
        ("HEAD", CHAT, "POST"),
        ("PUT", "/v1/completions", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/models/echo", "GET, HEAD"),
        ("OPTIONS", "/healthz", "GET, HEAD"),
        ("POST", "/docs", "GET, HEAD"),
    ],
)
async def test_path_with_another_method_then_405_names_its_own(door: int, method: str, path: str, allow: str) -> None:
    async with sent(door, request(method, path)) as answer:
        assert (answer.status, answer.headers["allow"]) == (405, allow)


@pytest.mark.parametrize("path", ["/v1/models", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"])
async def test_head_where_get_works_then_it_is_the_same_without_a_body(door: int, path: str) -> None:
    got = await get(door, path)
    async with sent(door, request("HEAD", path)) as answer:
        assert answer.status == got.status == 200
        assert answer.headers["content-type"] == got.headers["content-type"]
        answer.writer.write(request("GET", "/healthz", headers={"connection": "close"}))
        assert (await answer.reader.read()).startswith(b"HTTP/1.1 200 ")  # and nothing of a body before


async def test_body_when_it_comes_in_chunks_then_the_replica_gets_it_with_a_length(world: World) -> None:
    await world.loop.route()
    replica = await world.replica()
    raw = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    body = json.dumps(BODY).encode()
    raw += b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    assert (await send(world.port, raw)).status == 200
    assert replica.requests[0].headers["content-length"] == str(len(body))


async def test_headers_when_forwarded_then_only_those_that_a_replica_needs(world: World) -> None:
    await world.loop.route()
    replica = await world.replica()
    given = {
        "authorization": "Bearer secret",
        "cookie": "secret",
        "connection": "keep-alive, x-secret",
        "x-secret": "secret",
        "proxy-authorization": "secret",
        "te": "trailers",
        "x-forwarded-for": "1.2.3.4",
        "x-headrace-decision": "mine",
        "x-headrace-replica-token": "mine",
        "content-type": "application/json",
        "user-agent": "test",
        "traceparent": "00-1-2-03",
        "x-request-id": "my-id.1",
    }
    answer = await send(world.port, request(body=BODY, headers=given))
    assert replica.requests[0].headers == {
        "x-headrace-replica-token": token(replica.secret),
        "host": f"127.0.0.1:{replica.port}",
        "content-length": str(len(json.dumps(BODY))),
        "content-type": "application/json",
        "user-agent": "test",
        "traceparent": "00-1-2-03",
        "x-request-id": "my-id.1",
    }
    assert answer.headers["x-request-id"] == "my-id.1"
    await until(lambda: "request id=my-id.1" in world.gateway.log, "the access line")
    assert "secret" not in world.gateway.log


async def test_headers_of_an_answer_when_hop_by_hop_then_they_are_not_passed_on(world: World) -> None:
    async def chatty(request: object) -> None:
        request.say(  # type: ignore[attr-defined]  # a Received
            b"HTTP/1.1 200 OK\r\nconnection: x-hop, keep-alive\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nx-kept: 1\r\n"
            b"x-request-id: other\r\ncontent-length: 2\r\n\r\n{}"
        )

    await world.loop.route()
    await world.replica(behaviour=chatty)
    answer = await send(world.port, chat())
    assert answer.headers["x-kept"] == "1"
    assert answer.headers.keys().isdisjoint({"x-hop", "keep-alive", "connection"})
    assert answer.headers["x-request-id"] != "other"


@pytest.mark.parametrize("given", ["a b", "x" * 129, "<script>", ""])
async def test_request_id_when_not_sane_then_one_is_made(door: int, given: str) -> None:
    answer = await send(door, request(body=BODY, headers={"x-request-id": given}))
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


async def test_requests_when_pipelined_then_each_has_its_own_answer(world: World) -> None:
    await world.loop.route()
    await world.replica()
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(chat(number=1) + chat(number=2))
    for number in (1, 2):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(re.findall(r"content-length: (\d+)", head)[0])
        assert json.loads(await reader.readexactly(length))["number"] == number
    writer.close()


# -- keys and tenants


async def _with_keys(world: World) -> None:
    await world.loop.route("echo")
    await world.loop.route("second")
    await world.loop.route("echo", "team-b")
    await world.loop.key(KEY_A)
    await world.loop.key(KEY_NARROW, models=("second",))
    await world.loop.key(KEY_B, "team-b")
    async with asyncio.timeout(10):
        while (await get(world.port, "/v1/models", KEY_B)).status != 200:
            await asyncio.sleep(0.005)


def _names(answer: Answer) -> list[str]:
    return [model["id"] for model in answer.json()["data"]]


async def test_models_when_listed_with_a_key_then_they_are_those_that_it_opens(world: World) -> None:
    await _with_keys(world)
    assert _names(await get(world.port, "/v1/models", KEY_A)) == ["echo", "second"]
    assert _names(await get(world.port, "/v1/models", KEY_NARROW)) == ["second"]
    assert (await get(world.port, "/v1/models", KEY_B)).json() == {
        "object": "list",
        "data": [{"id": "echo", "object": "model", "created": 1, "owned_by": "team-b"}],
    }
    assert (await get(world.port, "/v1/models/second", KEY_A)).json()["id"] == "second"


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY_A}"}, {"authorization": "Bearer "}],
    ids=["none", "wrong", "another scheme", "empty"],
)
@pytest.mark.parametrize(("method", "path"), [("POST", CHAT), ("GET", "/v1/models")])
async def test_request_when_its_key_opens_nothing_then_401(
    world: World, headers: dict[str, str], method: str, path: str
) -> None:
    await _with_keys(world)
    answer = await send(world.port, request(method, path, BODY, headers))
    assert (answer.status, answer.code) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("authorization", "words"),
    [
        (KEY_A, "Bearer"),
        ("Bearer ", "no key after"),
        ("Bearer wrong", "not an API key"),
        ("Bearer hr_team-a_wrong", "not valid"),
    ],
)
async def test_key_that_opens_nothing_then_the_message_says_why(world: World, authorization: str, words: str) -> None:
    await _with_keys(world)
    answer = await send(world.port, request(body=BODY, headers={"authorization": authorization}))
    assert (answer.status, words in answer.json()["error"]["message"]) == (401, True)


async def test_request_when_it_has_two_authorization_headers_then_401(world: World) -> None:
    await _with_keys(world)
    raw = chat(key=KEY_A).replace(b"host: localhost", b"host: localhost\r\nauthorization: Bearer hr_team-b_b")
    assert (await send(world.port, raw)).status == 401


async def test_request_when_the_model_is_another_tenants_or_not_on_the_list_then_404(world: World) -> None:
    await _with_keys(world)
    assert (await send(world.port, chat("second", key=KEY_B))).status == 404
    assert (await send(world.port, chat("echo", key=KEY_NARROW))).status == 404


async def test_request_when_two_tenants_have_one_public_name_then_each_meets_its_own(world: World) -> None:
    await _with_keys(world)
    ours, theirs = await world.replica("ours"), await world.replica("theirs", namespace="team-b")
    assert (await send(world.port, chat(key=KEY_B))).headers["x-headrace-decision"].startswith("theirs/")
    assert (await send(world.port, chat(key=KEY_A))).headers["x-headrace-decision"].startswith("ours/")
    assert (len(ours.requests), len(theirs.requests)) == (1, 1)
    await until(lambda: "key=key-of-team-b" in world.gateway.log, "the access line")
    assert f"{KEY_B} " not in world.gateway.log


async def test_key_when_removed_then_it_opens_nothing_any_more(world: World) -> None:
    await _with_keys(world)
    await world.loop.remove_key(KEY_B)
    async with asyncio.timeout(10):
        while (await get(world.port, "/v1/models", KEY_B)).status != 401:
            await asyncio.sleep(0.005)


async def test_schema_when_asked_then_it_describes_inference_too(door: int) -> None:
    paths = (await get(door, "/openapi.json")).json()["paths"]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/metrics"} <= paths.keys()
    assert (await get(door, "/docs")).status == 200
