"""OpenAI's own client against a real server: what it sends is served, and what it reads is there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionFunctionToolParam
from pydantic import BaseModel
from serving.serving_client import ask
from serving.serving_echo import MODEL, EchoSettings
from serving.serving_processes import Server, free_port

from headrace import headers

TOOL: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {"name": "say", "parameters": {"type": "object", "properties": {"text": {"type": "string"}}}},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    server = Server(EchoSettings(free_port()), tmp_path_factory.mktemp("sdk"))
    await server.ready()
    yield server
    server.stop()


@pytest_asyncio.fixture
async def client(server: Server) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{server.settings.port}/v1", api_key="none") as client:
        yield client


def user(content: str) -> Any:
    return [{"role": "user", "content": content}]


async def test_chat_with_logprobs_then_the_client_reads_them(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=MODEL, messages=user("hi"), max_tokens=4, logprobs=True, top_logprobs=2, n=2
    )

    assert [choice.message.content for choice in answer.choices] == ["user", "user"]
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert [each.token for each in choice.logprobs.content] == list("user")
        assert [len(each.top_logprobs) for each in choice.logprobs.content] == [2] * 4
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 8)


async def test_chat_when_repeated_then_cached_tokens_are_reported(client: AsyncOpenAI) -> None:
    for cached in (0, 12):
        answer = await client.chat.completions.create(model=MODEL, messages=user("again and"), max_tokens=1)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == cached


async def test_tools_then_the_answer_can_be_sent_back(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=user("hi"), tools=[TOOL])

    message = answer.choices[0].message
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("say", '{"text": "hi"}')
    assert answer.choices[0].finish_reason == "tool_calls"
    back = [*user("hi"), message, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
    following = await client.chat.completions.create(model=MODEL, messages=back, tools=[TOOL], max_tokens=100)
    assert "tool:done@call_0" in (following.choices[0].message.content or "")


async def test_tools_when_streamed_then_the_helper_puts_them_together(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model=MODEL, messages=user("hi"), tools=[TOOL]) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_completion()

    message = final.choices[0].message
    assert message.content == "ok"
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.arguments == '{"text": "hi"}'
    assert kinds.count("tool_calls.function.arguments.delta") > 5
    assert kinds.count("tool_calls.function.arguments.done") == 1


class Pet(BaseModel):
    name: str
    legs: int


async def test_schema_then_the_parse_helper_returns_an_object(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.parse(
        model=MODEL, messages=user(Pet(name="Rex", legs=4).model_dump_json()), response_format=Pet
    )

    assert answer.choices[0].message.parsed == Pet(name="Rex", legs=4)


async def test_completions_with_logprobs_then_the_client_reads_them(client: AsyncOpenAI) -> None:
    answer = await client.completions.create(model=MODEL, prompt="ab", max_tokens=3, logprobs=1, echo=True)

    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == ("ababa", "length")
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.tokens == list("ababa")
    assert logprobs.text_offset == [0, 1, 2, 3, 4]
    assert logprobs.token_logprobs == [None, -2.0, -0.5, -2.0, -0.5]
    assert logprobs.top_logprobs is not None
    assert logprobs.top_logprobs[2] == {"a": -0.5}


async def test_completions_when_streamed_with_echo_then_in_order(client: AsyncOpenAI) -> None:
    texts, offsets = "", []
    stream = await client.completions.create(
        model=MODEL,
        prompt="ab",
        max_tokens=3,
        logprobs=0,
        echo=True,
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        for choice in chunk.choices:
            texts += choice.text
            if choice.logprobs is not None:
                offsets += choice.logprobs.text_offset or []

    assert (texts, offsets) == ("ababa", [0, 1, 2, 3, 4])


async def loglikelihood(server: Server, context: str, continuation: str) -> tuple[float, bool]:
    """Return what lm-eval 0.4 reads of the body that it sends (`openai_completions.LocalCompletionsAPI`)."""
    body = {"model": MODEL, "prompt": [list((context + continuation).encode())], "temperature": 0, "max_tokens": 1}
    answer = await ask(
        server.settings.port, "POST", "/v1/completions", {**body, "logprobs": 1, "seed": 1, "echo": True}
    )
    logprobs = answer.json()["choices"][0]["logprobs"]
    own = logprobs["token_logprobs"][len(context) : -1]
    tops = logprobs["top_logprobs"][len(context) : -1]
    return sum(own), all(each == max(top.values()) for each, top in zip(own, tops, strict=True))


async def test_loglikelihood_as_lm_eval_reads_it_then_exact(server: Server) -> None:
    assert await loglikelihood(server, "x", "ae") == (-1.0, True)
    assert await loglikelihood(server, "xy", "ab") == (-2.5, False)


async def test_echo_without_an_answer_then_only_the_prompt(server: Server) -> None:
    body = {"model": MODEL, "prompt": "ab", "max_tokens": 0, "echo": True, "logprobs": 1}
    answer = (await ask(server.settings.port, "POST", "/v1/completions", body)).json()

    (choice,) = answer["choices"]
    assert (choice["text"], choice["logprobs"]["tokens"]) == ("ab", ["a", "b"])
    assert answer["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_unknown_fields_then_named_in_a_header(server: Server, stream: bool) -> None:  # noqa: FBT001 - a column of the table
    body = {"model": MODEL, "messages": user("hi"), "max_tokens": 2, "do_sample": True, "stream": stream}
    answer = await ask(server.settings.port, "POST", "/v1/chat/completions", body)
    plain = await ask(server.settings.port, "POST", "/v1/chat/completions", {**body, "do_sample": None})

    assert answer.status == 200
    assert answer.headers[headers.WARNING] == "ignored unknown fields: do_sample"
    assert headers.WARNING not in plain.headers


async def test_absent_fields_then_absent_and_not_null(server: Server) -> None:
    body = {"model": MODEL, "messages": user("hi"), "max_tokens": 2}
    whole = (await ask(server.settings.port, "POST", "/v1/chat/completions", body)).body
    text = (await ask(server.settings.port, "POST", "/v1/completions", {"model": MODEL, "prompt": "a"})).body

    for raw in (whole, text):
        assert b"null" not in raw
        assert json.loads(raw)["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("given", ["ab", ["ab", "zz"], [97, 98], [[97, 98], [122, 122]]])
async def test_embeddings_in_each_form_then_one_vector_each(client: AsyncOpenAI, given: Any) -> None:
    answer = await client.embeddings.create(model=MODEL, input=given)  # the client asks for base64
    plain = await client.embeddings.create(model=MODEL, input=given, encoding_format="float")

    several = isinstance(given, list) and not isinstance(given[0], int)
    assert [each.embedding for each in answer.data] == [[0.0, 1.0, 0.0, 0.0]] * (2 if several else 1)
    assert answer.data == plain.data
    assert answer.usage.prompt_tokens == (4 if several else 2)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": [1] * 4097}, "input"),
        ({"input": "a", "dimensions": 2}, "dimensions"),
    ],
)
async def test_embeddings_when_a_field_is_wrong_then_named(server: Server, fields: dict[str, Any], param: str) -> None:
    answer = await ask(server.settings.port, "POST", "/v1/embeddings", {"model": MODEL, **fields})

    assert (answer.status, answer.json()["error"]["param"]) == (400, param)


async def test_adapter_then_listed_and_served_by_name(server: Server, client: AsyncOpenAI) -> None:
    port, path = server.settings.port, "/internal/v1/adapters"
    loaded = await ask(port, "POST", path, {"name": "tuned", "path": str(server.directory)})
    again = await ask(port, "POST", path, {"name": "tuned", "path": str(server.directory)})
    own = await ask(port, "POST", path, {"name": MODEL, "path": str(server.directory)})
    listed = [model.id async for model in client.models.list()]
    answer = await client.completions.create(model="tuned", prompt="a", max_tokens=1)
    one = await client.models.retrieve("tuned")
    unloaded = await ask(port, "DELETE", f"{path}/tuned")
    gone = await ask(port, "DELETE", f"{path}/tuned")

    assert loaded.json() == {"adapters": [{"name": "tuned"}]}
    assert (again.status, own.status) == (400, 400)
    assert listed == [MODEL, "tuned"]
    assert (answer.model, answer.choices[0].text) == ("tuned", "tuneda")
    assert one.id == "tuned"
    assert (unloaded.json(), gone.status) == ({"adapters": []}, 404)
