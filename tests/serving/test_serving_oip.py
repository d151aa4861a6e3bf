"""The Open Inference Protocol: Triton's own client, and the wire as its specification has it."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from serving.serving_client import Answer, ask, exchange
from serving.serving_echo import MODEL, EchoSettings
from serving.serving_processes import Server, free_port
from tritonclient.http.aio import InferenceServerClient, InferInput, InferRequestedOutput

from headrace import headers
from headrace.serving.errors import RequestError
from headrace.serving.oip.tensors import HEADER_LENGTH, read_request

INFER, GENERATE = f"/v2/models/{MODEL}/infer", f"/v2/models/{MODEL}/generate"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    server = Server(EchoSettings(free_port()), tmp_path_factory.mktemp("oip"))
    await server.ready()
    yield server
    server.stop()


@pytest_asyncio.fixture
async def client(server: Server) -> AsyncIterator[InferenceServerClient]:
    async with InferenceServerClient(f"127.0.0.1:{server.settings.port}") as client:
        yield client


async def post(server: Server, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
    return await ask(server.settings.port, "POST", path, body, headers)


async def test_tritons_client_then_health_and_metadata(client: InferenceServerClient) -> None:
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready(MODEL)
    assert not await client.is_model_ready("other")
    assert "binary_tensor_data" in (await client.get_server_metadata())["extensions"]
    assert (await client.get_model_metadata(MODEL))["inputs"] == [
        {"name": "text_input", "datatype": "BYTES", "shape": [-1]}
    ]


@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("binary_output", [True, False])
async def test_tritons_client_when_inferring_then_texts_return(
    client: InferenceServerClient,
    binary_input: bool,  # noqa: FBT001 - a column of the table
    binary_output: bool,  # noqa: FBT001 - a column of the table
) -> None:
    tensor = InferInput("text_input", [2], "BYTES")
    tensor.set_data_from_numpy(np.array(["äb", "z"], dtype=object), binary_data=binary_input)
    output = InferRequestedOutput("text_output", binary_data=binary_output)

    result = await client.infer(MODEL, [tensor], outputs=[output], request_id="r", parameters={"max_tokens": 3})

    texts = [each.decode() if isinstance(each, bytes) else each for each in result.as_numpy("text_output")]
    assert texts == ["äb", "zzz"]
    assert result.get_response()["id"] == "r"


async def test_tritons_client_with_its_defaults_then_binary(client: InferenceServerClient) -> None:
    tensor = InferInput("text_input", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([["ab"]], dtype=object))

    result = await client.infer(MODEL, [tensor])

    assert result.as_numpy("text_output").tolist() == [[b"ab" * 8]]


async def test_generate_then_text_as_a_whole_or_in_pieces(server: Server) -> None:
    body = {"text_input": "ab", "parameters": {"max_tokens": 3}, "id": "r", "colour": "red"}
    whole = await post(server, GENERATE, body)
    raw = json.dumps(body).encode()
    async with exchange(server.settings.port, "POST", GENERATE + "_stream", raw) as incoming:
        pieces = [json.loads(event) async for event in incoming.events()]

    assert whole.json() == {"model_name": MODEL, "id": "r", "text_output": "aba"}
    assert whole.headers[headers.WARNING] == "ignored unknown fields: colour"
    assert pieces == [{"model_name": MODEL, "id": "r", "text_output": letter} for letter in "aba"]


def inputs(**fields: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["a"], **fields}]}


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        (INFER, {}, 400, "inputs"),
        (INFER, inputs(name="image"), 400, "inputs[0]"),
        (INFER, inputs(datatype="FP32"), 400, "inputs[0].datatype"),
        (INFER, inputs(shape=[2]), 400, "inputs[0].shape"),
        (INFER, inputs(shape=[1 << 62, 1 << 62]), 400, "inputs[0].shape"),
        (INFER, inputs(shape=[10**4000, 10**4000]), 400, "inputs[0].shape"),
        (INFER, inputs(shape=[0], data=[]), 400, "inputs[0].shape"),
        (INFER, inputs(data=None), 400, "inputs[0]"),
        (INFER, inputs(parameters={"binary_data_size": 5}), 400, "inputs[0]"),
        (INFER, {**inputs(), "outputs": [{"name": "logits"}]}, 400, "outputs[0].name"),
        (INFER, {**inputs(), "parameters": {"temperature": 9}}, 400, "temperature"),
        (INFER, {**inputs(), "parameters": {"n": 2}}, 400, "n"),
        (INFER, inputs(shape=[9], data=["a"] * 9), 400, "prompt"),
        (INFER.replace(MODEL, "other"), inputs(), 404, None),
        (GENERATE, {"text_input": 5}, 400, "text_input"),
        (GENERATE, {"text_input": "a", "parameters": 5}, 400, "parameters"),
        (GENERATE, {"text_input": "a", "stream": True}, 400, "stream"),
        (GENERATE, {"text_input": "a", "id": 5}, 400, "id"),
        (GENERATE, [], 400, None),
    ],
)
async def test_oip_when_a_field_is_wrong_then_named(
    server: Server, path: str, body: object, status: int, param: str | None
) -> None:
    answer = await post(server, path, body)

    assert (answer.status, answer.json()["error"]["param"]) == (status, param)


def packed(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def head(size: int, shape: int = 1) -> bytes:
    return json.dumps(inputs(data=None, shape=[shape], parameters={"binary_data_size": size})).encode()


@pytest.mark.parametrize(
    ("raw", "length", "message"),
    [
        (head(5) + packed(b"a"), str(len(head(5)) + 9), "not a length within the body"),
        (head(5) + packed(b"a"), "-1", "not a length within the body"),
        (head(5) + packed(b"a"), "9" * 5000, "not a length within the body"),
        (head(6) + packed(b"a"), str(len(head(6))), "ends before 6 bytes"),
        (head(5) + packed(b"a") + b"x", str(len(head(5))), "1 bytes follow the last tensor"),
        (head(5) + struct.pack("<I", 2) + b"a", str(len(head(5))), "longer than the tensor"),
        (head(2) + b"xx", str(len(head(2))), "longer than the tensor"),
        (head(5) + packed(b"\xff"), str(len(head(5))), "not UTF-8"),
        (head(10, 1) + packed(b"a", b"b"), str(len(head(10, 1))), "not that of 2 elements"),
    ],
)
def test_tensor_when_it_is_malformed_then_refused(raw: bytes, length: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_request(raw, length.encode())


async def test_tensor_of_an_unknown_length_header_then_refused(server: Server) -> None:
    answer = await post(server, INFER, inputs(), {HEADER_LENGTH: "x"})

    assert answer.status == 400
