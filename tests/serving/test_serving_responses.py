"""/v1/responses with OpenAI's own client against a real server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from openai.types.responses import FunctionToolParam, Response
from pydantic import BaseModel
from serving.serving_bodies import ENGINE
from serving.serving_client import ask
from serving.serving_echo import MODEL, EchoSettings
from serving.serving_processes import Server, free_port

from headrace.serving.errors import RequestError
from headrace.serving.openai.responses import ResponseBody

TOOL: FunctionToolParam = {"type": "function", "name": "say", "parameters": {"type": "object"}, "strict": False}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    server = Server(EchoSettings(free_port()), tmp_path_factory.mktemp("responses"))
    await server.ready()
    yield server
    server.stop()


@pytest_asyncio.fixture
async def client(server: Server) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{server.settings.port}/v1", api_key="none") as client:
        yield client


async def test_response_then_it_has_text_and_usage(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, instructions="be", input="hi", max_output_tokens=17)

    assert response.output_text == "system:be|user:hi"
    assert (response.status, response.incomplete_details and response.incomplete_details.reason) == (
        "incomplete",
        "max_output_tokens",
    )
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (17, 17)


async def test_response_then_it_matches_the_clients_types(server: Server) -> None:
    answer = await ask(server.settings.port, "POST", "/v1/responses", {"model": MODEL, "input": "hi"})
    read = answer.json()
    read["usage"]["input_tokens_details"]["cache_write_tokens"] = 0  # of OpenAI's cache

    assert Response.model_validate(read, strict=False).output_text.startswith("user:hi")


async def test_response_when_streamed_then_events_are_in_order(client: AsyncOpenAI) -> None:
    kinds, numbers = [], []
    async with client.responses.stream(model=MODEL, input="hi", tools=[TOOL]) as stream:
        async for event in stream:
            numbers.append(event.sequence_number)
            if not event.type.endswith(".delta"):
                kinds.append(event.type)
        final = await stream.get_final_response()

    text = ["output_item.added", "content_part.added", "output_text.done", "content_part.done", "output_item.done"]
    thought = [each.replace("output_text", "reasoning_text") for each in text]
    call = ["output_item.added", "function_call_arguments.done", "output_item.done"]
    assert kinds == [f"response.{each}" for each in ("created", "in_progress", *thought, *text, *call, "completed")]
    assert numbers == list(range(len(numbers)))
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.output_text == "ok"


async def test_response_with_a_call_then_it_can_be_sent_back(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="hi", tools=[TOOL])
    call = response.output[-1]
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("say", '{"text": "hi"}')
    back: Any = [
        {"role": "user", "content": "hi"},
        *(item.model_dump(exclude_none=True) for item in response.output),
        {"type": "function_call_output", "call_id": call.call_id, "output": "done"},
    ]

    following = await client.responses.create(model=MODEL, input=back, tools=[TOOL], max_output_tokens=90)

    said = '<think>so</think>ok<call>call_0 say {"text": "hi"}</call>'
    assert ResponseBody.read(json.dumps({"model": MODEL, "input": back}).encode()).turns()[1].content == "ok"
    (prompt,) = [request.prompt_tokens for request in plan(input=back).requests]
    assert ENGINE.decode(list(prompt)) == f"user:hi|assistant:{said}|tool:done@call_0"
    assert following.status == "incomplete"


class Pet(BaseModel):
    name: str
    legs: int


async def test_response_with_a_schema_then_the_helper_parses(client: AsyncOpenAI) -> None:
    response = await client.responses.parse(model=MODEL, input='{"name":"Rex","legs":4}', text_format=Pet)

    assert response.output_parsed == Pet(name="Rex", legs=4)
    assert response.status == "completed"


def plan(**fields: Any) -> Any:
    return ResponseBody.read(json.dumps({"model": MODEL, **fields}).encode()).plan(ENGINE)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "nothing is stored"),
        ({"background": True}, "background", "not supported"),
        ({"include": ["reasoning.encrypted_content"]}, "include", "not supported"),
        ({"truncation": "auto"}, "truncation", "not supported"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort", "not supported"),
        ({"max_tokens": 5}, "max_tokens", "Use `max_output_tokens`"),
        ({"input": []}, "input", "at least 1 item"),
        ({"input": 5}, "input", "a string or a list of items"),
        ({"input": [{"type": "web_search_call"}]}, "input[0]", "should be a message, reasoning"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type", "input_text"),
        ({"input": [{"role": "user"}]}, "input[0].content", "required"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "should be 'function'"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice", "no tool 'g'"),
        ({"tools": [TOOL], "text": {"format": {"type": "json_object"}}}, "text.format", "Leave out `tools`"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema", "is missing"),
        ({"input": "x" * 4090}, "input", "4096 tokens"),
    ],
)
def test_response_when_a_field_is_wrong_then_named(fields: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        plan(**{"input": "hi", "max_output_tokens": 4, **fields})

    assert (raised.value.param, raised.value.http_status) == (param, 400)
    assert message in str(raised.value)


def test_cache_salt_then_it_separates_cached_prefixes() -> None:
    """As in chat: a salt that is ignored would let others observe by latency which prompts were computed."""
    body = ResponseBody.read(json.dumps({"model": MODEL, "input": "hi", "cache_salt": "team"}).encode())

    (request,) = body.plan(ENGINE).requests
    assert (request.tenant, body.ignored) == ("team", [])
