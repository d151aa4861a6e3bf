"""Requests and answers of `infer`: JSON, or JSON followed by raw tensors.

The binary tensor extension (Triton's `protocol/extension_binary_data.md`): the header `Inference-Header-Content-Length`
has the length of the JSON, and the tensors follow in the order in which the JSON names them. An element of BYTES is its
length, 4 bytes little-endian, and its bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError

from headrace.serving.errors import InvalidRequest
from headrace.serving.openai.faults import fault
from headrace.serving.openai.fields import Fields

HEADER_LENGTH = "inference-header-content-length"
INPUT, OUTPUT = "text_input", "text_output"
MAX_TEXTS = 1024
MAX_TENSORS = 16
MAX_NAME_CHARACTERS = 256
_LENGTH = struct.Struct("<I")

Name = Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)]


class TensorFields(Fields):
    """An object of a request of `infer`: the protocol has no fields that other protocols know."""

    hints: ClassVar = {}


class InputParameters(TensorFields):
    """How an input is encoded."""

    where = "inputs[].parameters."

    binary_data_size: int | None = Field(default=None, ge=0)
    """Bytes of the tensor behind the JSON."""


class InputTensor(TensorFields):
    """One input."""

    where = "inputs[]."

    name: Name
    datatype: Literal["BYTES"]
    shape: list[Annotated[int, Field(ge=0)]] = Field(min_length=1, max_length=2)
    """[texts], or [texts, 1]."""
    data: list[str | list[str]] | None = Field(default=None, max_length=MAX_TEXTS)
    parameters: InputParameters | None = None

    @property
    def count(self) -> int:
        """Return the number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count


class OutputParameters(TensorFields):
    """How an output is to be encoded."""

    where = "outputs[].parameters."

    binary_data: bool | None = None


class RequestedOutput(TensorFields):
    """One requested output."""

    where = "outputs[]."

    name: Name
    parameters: OutputParameters | None = None


class InferBody(TensorFields):
    """The JSON of a request of `infer`."""

    id: Name | None = None
    inputs: list[InputTensor] = Field(min_length=1, max_length=MAX_TENSORS)
    outputs: list[RequestedOutput] | None = Field(default=None, max_length=MAX_TENSORS)
    parameters: dict[str, Any] | None = Field(default=None, max_length=64)


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request of `infer`."""

    id: str | None
    texts: tuple[str, ...]
    shape: tuple[int, ...]
    """Of the input; the output has the same."""
    options: dict[str, Any]
    """Parameters that are not the protocol's own: the names of /v1/completions."""
    binary: bool
    """Whether the output is raw."""
    ignored: tuple[str, ...]
    """Paths of unknown fields."""


def read_request(raw: bytes, header_length: bytes | None) -> InferRequest:
    """Return the request. Raises InvalidRequest that names the field at fault."""
    size = len(raw) if header_length is None else _header_size(header_length, len(raw))
    head, tail = raw[:size], raw[size:]
    ignored: list[str] = []
    try:
        body = InferBody.model_validate_json(head, context=ignored)
    except ValidationError as error:
        raise fault(error, head) from None
    found: tuple[InputTensor, list[str]] | None = None
    for index, tensor in enumerate(body.inputs):
        where = f"inputs[{index}]"
        if tensor.name != INPUT:
            raise InvalidRequest(f"`{where}.name`: the model has no input {tensor.name!r}, only {INPUT!r}", param=where)
        if found is not None:
            raise InvalidRequest(f"`{where}`: {INPUT!r} is given twice", param=where)
        texts, tail = _texts(tensor, tail, where)
        found = tensor, texts
    if tail:
        raise InvalidRequest(f"{len(tail)} bytes follow the last tensor", hint="Check `binary_data_size`")
    assert found is not None  # at least one input
    parameters = dict(body.parameters or {})
    binary = parameters.pop("binary_data_output", False) is True
    for index, output in enumerate(body.outputs or ()):
        if output.name != OUTPUT:
            raise InvalidRequest(
                f"`outputs[{index}].name`: the model has no output {output.name!r}, only {OUTPUT!r}",
                param=f"outputs[{index}].name",
            )
        if output.parameters is not None and output.parameters.binary_data is not None:
            binary = output.parameters.binary_data
    return InferRequest(body.id, tuple(found[1]), tuple(found[0].shape), parameters, binary, tuple(ignored))


def written(request: InferRequest, model: str, texts: Sequence[str]) -> tuple[bytes, int | None]:
    """Return the answer's body, and the length of its JSON if a raw tensor follows it."""
    tensor: dict[str, Any] = {"name": OUTPUT, "datatype": "BYTES", "shape": list(request.shape)}
    raw = b""
    if request.binary:
        encoded = [text.encode(errors="surrogatepass") for text in texts]
        raw = b"".join(_LENGTH.pack(len(each)) + each for each in encoded)
        tensor["parameters"] = {"binary_data_size": len(raw)}
    else:
        tensor["data"] = list(texts)
    answer: dict[str, Any] = {"model_name": model, "outputs": [tensor]}
    if request.id:
        answer["id"] = request.id
    head = json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
    return head + raw, len(head) if request.binary else None


def _header_size(header: bytes, size: int) -> int:
    if not header.isdigit() or len(header) > len(str(size)) or int(header) > size:
        raise InvalidRequest(f"`{HEADER_LENGTH}` is not a length within the body of {size} bytes")
    return int(header)


def _texts(tensor: InputTensor, tail: bytes, where: str) -> tuple[list[str], bytes]:
    """Return the elements of a tensor, and what follows it."""
    size = None if tensor.parameters is None else tensor.parameters.binary_data_size
    if (size is None) is (tensor.data is None):
        raise InvalidRequest(f"`{where}` needs either `data` or `parameters.binary_data_size`", param=where)
    if tensor.data is not None:
        texts = [text for row in tensor.data for text in ([row] if isinstance(row, str) else row)]
    else:
        assert size is not None
        texts, tail = _unpacked(tail[:size], size, where), tail[size:]
    if len(texts) != tensor.count or not 1 <= len(texts) <= MAX_TEXTS:
        raise InvalidRequest(
            f"`{where}.shape` is not that of {len(texts)} elements, or these are not 1 to {MAX_TEXTS}",
            param=f"{where}.shape",
        )
    return texts, tail


def _unpacked(raw: bytes, size: int, where: str) -> list[str]:
    if len(raw) != size:
        raise InvalidRequest(f"`{where}`: the body ends before {size} bytes of the tensor", param=where)
    texts: list[str] = []
    at = 0
    while at < size and len(texts) <= MAX_TEXTS:
        end = at + _LENGTH.size
        length = _LENGTH.unpack(raw[at:end])[0] if end <= size else size
        if end + length > size:
            raise InvalidRequest(f"`{where}`: an element is longer than the tensor", param=where)
        try:
            texts.append(raw[end : end + length].decode())
        except UnicodeDecodeError:
            raise InvalidRequest(f"`{where}`: an element is not UTF-8", param=where) from None
        at = end + length
    return texts
