"""Bodies as clients send them, and what the shell makes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from serving.serving_echo import EchoEngine

from headrace.serving.engine import GenerationRequest
from headrace.serving.errors import RequestError
from headrace.serving.openai.chats import ChatBody
from headrace.serving.openai.completions import CompletionBody
from headrace.serving.openai.requests import GenerationBody

ENGINE = EchoEngine(step_seconds=0)
USER = {"role": "user", "content": "hi"}


def chat(**fields: Any) -> ChatBody:
    return ChatBody.read(json.dumps({"model": "m", "messages": [USER], **fields}).encode())


def completion(prompt: object = "hi", **fields: Any) -> CompletionBody:
    return CompletionBody.read(json.dumps({"model": "m", "prompt": prompt, **fields}).encode())


def requested(body: GenerationBody) -> list[GenerationRequest]:
    return list(body.plan(ENGINE).requests)


def refusal(endpoint: type[GenerationBody], body: object) -> RequestError:
    """Return the error that a body gets; bytes are sent as they are."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(RequestError) as raised:
        requested(endpoint.read(raw))
    return raised.value
