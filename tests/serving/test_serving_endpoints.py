"""The endpoints on the wire: shapes, statuses, headers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio
from serving.conftest import Start
from serving.serving_client import Answer, ask, exchange
from serving.serving_echo import CAPACITY, MODEL, EchoSettings
from serving.serving_processes import Server, eventually, free_port, until

from headrace import environment
from headrace.http.bodies import MAX_BODY_BYTES, MAX_DISCARDED_BYTES
from headrace.metrics import runtime as names

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
CACHED = {"prompt_tokens_details": {"cached_tokens": 0}}
RUNNING = names.REQUESTS_RUNNING
CANCELLED = f"{names.CANCELLED}_total"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    server = Server(EchoSettings(free_port(), step_seconds=0.01), tmp_path_factory.mktemp("endpoints"))
    await server.ready()
    yield server
    server.stop()


async def post(server: Server, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
    return await ask(server.settings.port, "POST", path, body, headers)


async def get(server: Server, path: str) -> Answer:
    return await ask(server.settings.port, "GET", path)


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, **fields}


async def test_chat_then_answers_whole(server: Server) -> None:
    answer = await post(server, CHAT, chat())

    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json()["choices"][0]["message"]["content"] == "user"
    assert answer.json()["usage"] == {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11, **CACHED}


async def test_chat_when_streamed_then_each_step_is_an_event(server: Server) -> None:
    raw = json.dumps(chat(stream=True)).encode()
    async with exchange(server.settings.port, "POST", CHAT, raw) as incoming:
        events = [event async for event in incoming.events()]

    assert incoming.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert incoming.headers["cache-control"] == "no-cache"
    assert events.pop() == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
    assert deltas == [{"role": "assistant", "content": ""}, *({"content": letter} for letter in "user"), {}]


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [
        (CHAT, b"{", 400, "invalid_request", None),
        (CHAT, chat(modalities=["audio"]), 400, "unsupported_parameter", "modalities"),
        (CHAT, chat(temperature=9), 400, "invalid_request", "temperature"),
        (CHAT, chat(max_tokens=5000), 400, "context_length_exceeded", "messages"),
        (CHAT, chat(model="other"), 404, "model_not_found", "model"),
        (COMPLETIONS, {"model": MODEL, "prompt": [999]}, 400, "invalid_request", "prompt"),
        (COMPLETIONS, {"model": MODEL, "prompt": ["a"] * (CAPACITY + 1)}, 400, "invalid_request", "prompt"),
        (COMPLETIONS, {"model": MODEL}, 400, "invalid_request", "prompt"),
        ("/tokenize", {}, 400, "invalid_request", "prompt"),
        ("/detokenize", {"tokens": [999]}, 400, "invalid_request", "tokens"),
        (CHAT, b" " * (2 * MAX_BODY_BYTES), 413, "body_too_large", None),
        ("/v1/images/edits", {}, 404, "not_found", None),
        ("/v1/models", {}, 405, "method_not_allowed", None),
    ],
)
async def test_error_then_it_has_openais_shape_and_a_reason(
    server: Server, path: str, body: object, status: int, code: str, param: str | None
) -> None:
    answer = await post(server, path, body)

    error = answer.json()["error"]
    assert (answer.status, error["type"], error["code"], error["param"]) == (
        status,
        "invalid_request_error",
        code,
        param,
    )
    assert sorted(error) == ["code", "message", "param", "type"]
    assert answer.headers["x-headrace-reason"].lower() == code.replace("_", "")


async def test_body_when_compressed_then_the_coding_is_named(server: Server) -> None:
    answer = await post(server, CHAT, b"\x1f\x8b", {"content-encoding": "gzip"})

    assert (answer.status, answer.json()["error"]["code"]) == (415, "unsupported_content_encoding")
    assert "Content-Encoding: gzip" in answer.json()["error"]["message"]


async def test_body_limit_when_the_pod_sets_one_then_it_holds(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.MAX_BODY_BYTES, str(2 * MAX_BODY_BYTES))
    server = start()
    await server.ready()
    largest, larger = (b" " * (2 * MAX_BODY_BYTES + more) for more in (0, 1))

    assert (await post(server, CHAT, largest)).json()["error"]["code"] == "invalid_request"
    assert (await post(server, CHAT, larger)).json()["error"]["message"].startswith("the body is larger than 8388608")


async def test_body_with_a_bom_then_it_is_skipped(server: Server) -> None:
    answer = await post(server, CHAT, b"\xef\xbb\xbf" + json.dumps(chat()).encode())

    assert answer.status == 200


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", CHAT, "POST"), ("DELETE", "/v1/models", "GET, HEAD"), ("POST", "/health/ready", "GET, HEAD")],
)
async def test_path_with_another_method_then_405_names_its_own(
    server: Server, method: str, path: str, allow: str
) -> None:
    async with exchange(server.settings.port, method, path) as answer:
        assert (answer.status, answer.headers["allow"]) == (405, allow)


@pytest.mark.parametrize("path", ["/v1/models", f"/v1/models/{MODEL}", "/health", "/metrics", "/version"])
async def test_head_where_get_works_then_it_is_the_same_without_a_body(server: Server, path: str) -> None:
    async with exchange(server.settings.port, "HEAD", path, headers={"connection": "close"}) as answer:
        assert (answer.status, await answer.reader.read()) == (200, b"")


async def test_body_when_it_does_not_end_then_it_is_not_read_for_ever(server: Server) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.settings.port)
    writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode())
    piece = b" " * 65536
    try:
        for _ in range(4 * MAX_DISCARDED_BYTES // len(piece)):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
    except ConnectionError:
        pass
    else:
        pytest.fail("all of it was read")
    finally:
        writer.close()


async def test_request_when_the_engine_is_full_then_429_retry_after(server: Server) -> None:
    long = json.dumps({"model": MODEL, "prompt": "x", "max_tokens": 4000, "stream": True}).encode()
    streams = [exchange(server.settings.port, "POST", COMPLETIONS, long) for _ in range(CAPACITY)]
    for stream in streams:
        await stream.__aenter__()

    answer = await post(server, CHAT, chat())

    for stream in streams:
        await stream.__aexit__(None, None, None)
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    assert answer.json()["error"] == {
        "message": "the echo is full",
        "type": "rate_limit_error",
        "param": None,
        "code": "saturated",
    }


async def test_prompts_when_several_then_each_is_a_choice(server: Server) -> None:
    answer = await post(server, COMPLETIONS, {"model": MODEL, "prompt": ["ab", "xyz", "q"], "max_tokens": 4})

    choices = [(each["index"], each["text"], each["finish_reason"]) for each in answer.json()["choices"]]
    assert choices == [(0, "abab", "length"), (1, "xyzx", "length"), (2, "qqqq", "length")]
    assert answer.json()["usage"] == {"prompt_tokens": 6, "completion_tokens": 12, "total_tokens": 18, **CACHED}


async def test_prompts_when_streamed_then_their_events_are_interleaved(server: Server) -> None:
    body = {"model": MODEL, "prompt": ["ab", "xy"], "max_tokens": 30, "stream": True}
    raw = json.dumps({**body, "stream_options": {"include_usage": True}}).encode()
    async with exchange(server.settings.port, "POST", COMPLETIONS, raw) as incoming:
        *events, last, done = [event async for event in incoming.events()]

    choices = [json.loads(event)["choices"][0] for event in events]
    for index, text in enumerate(("ab", "xy")):
        own = [each for each in choices if each["index"] == index]
        assert "".join(each["text"] for each in own) == text * 15
        assert [each["finish_reason"] for each in own if each["finish_reason"]] == ["length"]
    order = [each["index"] for each in choices]
    assert order != sorted(order)
    assert json.loads(last)["usage"] == {"prompt_tokens": 4, "completion_tokens": 60, "total_tokens": 64, **CACHED}
    assert done == "[DONE]"


async def test_prompts_when_the_engine_lacks_room_then_none_is_started(server: Server) -> None:
    long = json.dumps({"model": MODEL, "prompt": ["x"] * (CAPACITY - 1), "max_tokens": 4000, "stream": True}).encode()
    async with exchange(server.settings.port, "POST", COMPLETIONS, long):
        refused = await post(server, COMPLETIONS, {"model": MODEL, "prompt": ["a", "b"], "stream": True})
        one = await post(server, COMPLETIONS, {"model": MODEL, "prompt": ["a"], "max_tokens": 2})

    assert (refused.status, refused.headers["x-headrace-reason"]) == (429, "Saturated")
    assert one.json()["choices"][0]["text"] == "aa"


async def test_prompts_when_the_client_leaves_then_all_are_cancelled(server: Server) -> None:
    before = metrics(await get(server, "/metrics"))
    long = json.dumps({"model": MODEL, "prompt": ["a", "b", "c"], "max_tokens": 4000, "stream": True}).encode()
    async with exchange(server.settings.port, "POST", COMPLETIONS, long):
        assert metrics(await get(server, "/metrics"))[RUNNING] >= 3

    async def cancelled() -> bool:
        now = metrics(await get(server, "/metrics"))
        return now[RUNNING] == 0 and now[CANCELLED] >= before[CANCELLED] + 3

    await eventually(cancelled, "the prompts are cancelled")


@pytest.mark.parametrize(("given", "kept"), [("abc-1.2", True), ("a b", False), ("x" * 200, False)])
async def test_request_id_when_it_is_sane_then_it_is_returned(server: Server, given: str, kept: bool) -> None:  # noqa: FBT001 - a column of the table
    answer = await post(server, CHAT, chat(), {"x-request-id": given})

    assert (answer.headers["x-request-id"] == given) is kept
    assert answer.headers["x-request-id"]


async def test_models_then_the_one_model_is_listed_with_its_length(server: Server) -> None:
    listed, one = (await get(server, "/v1/models")).json(), (await get(server, f"/v1/models/{MODEL}")).json()

    assert listed == {"object": "list", "data": [one]}
    assert (one["id"], one["object"], one["owned_by"], one["max_model_len"]) == (MODEL, "model", "headrace", 4096)


async def test_tokenize_then_detokenize_gives_the_text_back(server: Server) -> None:
    tokens = (await post(server, "/tokenize", {"model": MODEL, "prompt": "hello"})).json()
    text = (await post(server, "/detokenize", {"model": MODEL, "tokens": tokens["tokens"]})).json()

    assert (tokens["count"], tokens["max_model_len"], text) == (5, 4096, {"prompt": "hello"})


async def test_metrics_then_they_have_vllms_names_and_count(server: Server) -> None:
    await post(server, CHAT, chat())
    before = metrics(await get(server, "/metrics"))
    await post(server, CHAT, chat())
    after = metrics(await get(server, "/metrics"))

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grown("vllm:prompt_tokens_total") == 7
    assert grown("vllm:generation_tokens_total") == 4
    assert grown("vllm:time_to_first_token_seconds_count") == 1
    assert grown("vllm:e2e_request_latency_seconds_count") == 1
    assert grown("vllm:request_success_total") == 1
    assert grown("vllm:inter_token_latency_seconds_count") == 3
    assert 0 < grown("vllm:request_decode_time_seconds_sum") < grown("vllm:e2e_request_latency_seconds_sum")
    assert (grown("vllm:request_prompt_tokens_sum"), grown("vllm:request_generation_tokens_sum")) == (7, 4)
    assert grown("vllm:prefix_cache_queries_total") == 7
    assert grown("vllm:prefix_cache_hits_total") == 4  # of 7 that the engine has seen before
    assert grown("echo_echoes") == 4  # the engine's own
    assert {"vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"} <= after.keys()


def metrics(answer: Answer) -> dict[str, float]:
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = (line.rsplit(" ", 1) for line in answer.body.decode().splitlines() if not line.startswith("#"))
    return {name.partition("{")[0]: float(value) for name, value in values}


async def test_version_then_it_is_ours(server: Server) -> None:
    assert (await get(server, "/version")).json()["version"].startswith("0.")


async def test_log_then_it_has_the_counts_and_nothing_of_the_prompt(server: Server) -> None:
    secret = "the crown jewels are in the cellar"
    answer = await post(server, CHAT, chat(messages=[{"role": "user", "content": secret}]), {"x-request-id": "find-me"})

    await until(lambda: "id=find-me" in server.log, "the access line")
    line = next(line for line in server.log.splitlines() if "id=find-me" in line)
    assert "POST /v1/chat/completions 200" in line
    assert f"prompt_tokens={len(secret) + 5} completion_tokens=4 finish=length" in line
    assert answer.status == 200
    assert "jewels" not in server.log


async def test_probes_then_they_are_not_logged(server: Server) -> None:
    for path in ("/health", "/health/live", "/health/ready"):
        assert (await get(server, path)).status == 200

    assert "/health" not in server.log
