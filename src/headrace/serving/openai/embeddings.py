"""POST /v1/embeddings: its body and its answer."""

from __future__ import annotations

import base64
import json
import sys
from array import array
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from headrace.serving.engine import TextEngine
from headrace.serving.errors import ContextLengthExceeded, InvalidRequest
from headrace.serving.openai.completions import TextsOrTokens, several
from headrace.serving.openai.fields import OFF
from headrace.serving.openai.plan import Prompt
from headrace.serving.openai.requests import Body, text_prompt

MAX_INPUTS = 2048
"""OpenAI's limit."""


class EmbeddingBody(Body):
    """POST /v1/embeddings. An input is text or token ids, as a prompt is."""

    off: ClassVar = {**OFF, "add_special_tokens": (True,)}

    model: str = Field(max_length=256)
    input: TextsOrTokens
    encoding_format: Literal["float", "base64"] | None = None

    def prompts(self, engine: TextEngine) -> list[Prompt]:
        """Return the inputs' token ids. Raises InvalidRequest, ContextLengthExceeded."""
        inputs = several(self.input)
        if len(inputs) > MAX_INPUTS:
            raise InvalidRequest(
                f"`input`: {len(inputs)} inputs in one request, and {MAX_INPUTS} are allowed", param="input"
            )
        params = [f"input[{index}]" for index in range(len(inputs))] if len(inputs) > 1 else ["input"]
        prompts = [text_prompt(each, engine, param=param) for each, param in zip(inputs, params, strict=True)]
        for prompt in prompts:
            if len(prompt.tokens) > engine.model_len:
                raise ContextLengthExceeded(
                    f"the model length is {engine.model_len} tokens, and `{prompt.param}` has {len(prompt.tokens)}",
                    param=prompt.param,
                    hint="Shorten it, or split it",
                )
        return prompts


def embedding_answer(body: EmbeddingBody, prompts: Sequence[Prompt], vectors: Sequence[array[float]]) -> bytes:
    """Return the answer in OpenAI's shape. Call it in a thread.

    It may have millions of numbers, which take seconds: each vector is written by a call of its own, so that the event
    loop gets the interpreter in between.
    """
    tokens = sum(len(prompt.tokens) for prompt in prompts)
    rest = {"object": "list", "model": body.model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    data = b",".join(_written(index, vector, body.encoding_format) for index, vector in enumerate(vectors))
    return _json(rest)[:-1] + b',"data":[' + data + b"]}"


def _written(index: int, vector: array[float], encoding: str | None) -> bytes:
    numbers = _base64(vector) if encoding == "base64" else vector.tolist()
    return _json({"object": "embedding", "index": index, "embedding": numbers})


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _base64(vector: array[float]) -> str:
    """Return little-endian float32 in base64, as OpenAI's client decodes it."""
    if sys.byteorder == "big":
        vector = vector[:]
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode()
