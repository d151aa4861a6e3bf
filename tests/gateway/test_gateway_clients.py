"""The operations of text models through a real gateway, to a real runtime that reports itself, with real clients."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from gateway.gateway_client import request, send
from http_server.http_servers import processes
from openai import AsyncOpenAI
from serving.serving_echo import MODEL
from tritonclient.http.aio import InferenceServerClient, InferInput

from headrace.headers import WARNING
from headrace.http.errors import InvalidRequest
from headrace.routes import operations
from headrace_gateway.operations import OPERATIONS
from headrace_gateway.operations.oip import GENERATE, GENERATE_STREAM


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with processes(tmp_path_factory.mktemp("clients")) as ports:
        yield ports.gateway


def test_table_then_it_has_all_operations_of_text_models() -> None:
    assert {operation.name for operation in OPERATIONS} == set(operations.TEXT)


def test_generate_stream_then_every_request_is_a_stream() -> None:
    assert GENERATE_STREAM.read({"model": "m"}, b"{}") == ("m", True)
    assert GENERATE.read({"model": "m"}, b"{}") == ("m", False)
    with pytest.raises(InvalidRequest):
        OPERATIONS.match({"path": "/v1/embeddings", "raw_path": b"/v1/embeddings", "method": "POST"}).read(  # type: ignore[union-attr]  # it is in the table
            b"id", "default", b'{"input": "a"}'
        )


async def test_openais_client_through_the_gateway_then_served(port: int) -> None:
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
        embedded = await client.embeddings.create(model=MODEL, input="ab")
        whole = await client.responses.create(model=MODEL, input="hi", max_output_tokens=7)
        async with client.responses.stream(model=MODEL, input="hi", max_output_tokens=7) as stream:
            kinds = [event.type async for event in stream]

    assert embedded.data[0].embedding == [0.0, 1.0, 0.0, 0.0]
    assert whole.output_text == "user:hi"
    assert (kinds[0], kinds[-1]) == ("response.created", "response.incomplete")


async def test_tritons_client_through_the_gateway_then_served(port: int) -> None:
    """Binary tensors too: the header with the length of the JSON is forwarded in both directions."""
    tensor = InferInput("text_input", [1], "BYTES")
    tensor.set_data_from_numpy(np.array(["ab"], dtype=object))
    async with InferenceServerClient(f"127.0.0.1:{port}") as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready(MODEL)
        assert (await client.get_server_metadata())["name"] == "headrace"
        assert (await client.get_model_metadata(MODEL))["name"] == MODEL
        result = await client.infer(MODEL, [tensor], parameters={"max_tokens": 3})

    assert result.as_numpy("text_output").tolist() == [b"aba"]


async def test_tokens_through_the_gateway_then_served(port: int) -> None:
    tokens = await post(port, "/tokenize", {"model": MODEL, "prompt": "ab", "return_token_strs": True})
    text = await post(port, "/detokenize", {"model": MODEL, "tokens": [97, 98]})

    assert (tokens["tokens"], tokens["token_strs"], text) == ([97, 98], ["a", "b"], {"prompt": "ab"})


async def test_generate_stream_through_the_gateway_then_events(port: int) -> None:
    body = json.dumps({"text_input": "ab", "parameters": {"max_tokens": 2}}).encode()
    answer = await send(port, request(path=f"/v2/models/{MODEL}/generate_stream", body=body))

    events = [json.loads(line.removeprefix("data: ")) for line in answer.body.decode().split("\n\n") if line]
    assert [event["text_output"] for event in events] == ["a", "b"]


async def test_warning_of_a_runtime_then_the_gateway_relays_it(port: int) -> None:
    body = json.dumps({"model": MODEL, "prompt": "ab", "do_sample": True}).encode()
    answer = await send(port, request(path="/v1/completions", body=body))

    assert answer.headers[WARNING] == "ignored unknown fields: do_sample"


async def post(port: int, path: str, body: object) -> dict[str, object]:
    answer = await send(port, request(path=path, body=json.dumps(body).encode()))
    assert answer.status == 200, answer.body
    made: dict[str, object] = answer.json()
    return made
