"""Which fields pass, which are refused by name, and that no real client is broken by that."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import completion_create_params as chat_params
from openai.types.completion_create_params import CompletionCreateParamsBase
from serving.serving_bodies import ENGINE, USER, chat, completion, refusal, requested
from serving.serving_echo import MODEL_LEN

from headrace.serving.engine import Sampling, StopConditions
from headrace.serving.errors import RequestError
from headrace.serving.openai.chats import ChatBody
from headrace.serving.openai.completions import CompletionBody
from headrace.serving.openai.fields import (
    HARMLESS,
    HARMLESS_IN_MESSAGES,
    HARMLESS_IN_PARTS,
    MAX_IGNORED,
    OFF,
    OFF_IN_MESSAGES,
)
from headrace.serving.openai.requests import GenerationBody
from headrace.serving.openai.tokens import TokenizeBody

REPLAYED = {"role": "assistant", "content": "ok", "refusal": None}
IMAGE = {"type": "image_url", "image_url": {"url": "https://…"}}
PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "hi"}]
WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}

CLIENTS: dict[str, tuple[type[GenerationBody], dict[str, Any]]] = {
    # Recorded from the clients themselves; where a name is in brackets, read in its source.
    "openai": (ChatBody, {"messages": [USER]}),
    "openai, answer sent back": (ChatBody, {"messages": [USER, REPLAYED, USER]}),
    "openai, answer dumped and sent back": (
        ChatBody,
        {
            "messages": [
                USER,
                {**REPLAYED, "annotations": None, "audio": None, "function_call": None, "tool_calls": None},
                USER,
            ]
        },
    ),
    "openai-node, stream": (ChatBody, {"messages": [USER, REPLAYED, USER], "stream": True}),
    "langchain": (
        ChatBody,
        {"stream": False, "messages": [{"content": "s", "role": "system"}, {**USER, "name": "al"}]},
    ),
    "langchain, stream": (ChatBody, {"stream": True, "messages": [{"role": "user", "content": PARTS}, USER]}),
    "langchain, completions": (
        CompletionBody,
        {
            "prompt": ["hi", "ho"],
            "frequency_penalty": 0,
            "logprobs": None,
            "max_tokens": 256,
            "n": 1,
            "presence_penalty": 0,
            "seed": None,
            "temperature": 0.7,
            "top_p": 1,
        },
    ),
    "langchain-js, stream": (ChatBody, {**WITH_USAGE, "messages": [USER]}),
    "langchain-js, completions": (CompletionBody, {"n": 1, "stream": False, "prompt": ["hi"]}),
    "litellm": (ChatBody, {"messages": [USER, {"content": "ok", "role": "assistant"}, USER], "user": "u"}),
    "litellm, completions": (CompletionBody, {"prompt": ["hi", "ho"]}),
    "ai-sdk": (ChatBody, {"messages": [{"role": "system", "content": "s"}, USER], **WITH_USAGE}),
    "ai-sdk, compatible": (ChatBody, {"messages": [{"role": "user", "content": PARTS}, REPLAYED, USER]}),
    "ai-sdk, completions": (CompletionBody, {"prompt": "user:\nhi\n\nassistant:\n", "stop": ["\nuser:"]}),
    "continue": (ChatBody, {"messages": [USER], **WITH_USAGE}),
    "continue [with every option set]": (
        ChatBody,
        {
            "messages": [USER],
            "max_tokens": 64,
            "temperature": 0.1,
            "top_p": 1,
            "frequency_penalty": 0,
            "presence_penalty": 0,
            "stream": True,
            "stop": ["\n"],
            "prediction": {"type": "content", "content": "code"},
        },
    ),
    "[open-webui]": (
        ChatBody,
        {
            **WITH_USAGE,
            "messages": [USER, {**USER, "cache_control": {"type": "ephemeral"}}],
            "temperature": 0.8,
            "logit_bias": {},
        },
    ),
    "[librechat]": (
        ChatBody,
        {
            **WITH_USAGE,
            "messages": [USER],
            "temperature": 1,
            "top_p": 1,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "user": "6500",
        },
    ),
}


@pytest.mark.parametrize("client", CLIENTS)
def test_client_when_it_sends_its_defaults_then_it_is_served(client: str) -> None:
    endpoint, body = CLIENTS[client]

    assert requested(endpoint.read(json.dumps({"model": "m", **body}).encode()))


@pytest.mark.parametrize("name", sorted({*HARMLESS, *OFF}))
def test_field_when_it_changes_nothing_then_it_passes(name: str) -> None:
    values = (None, {"any": "thing"}) if name in HARMLESS else (None, *OFF[name])

    for value in values:
        (plain,) = requested(chat(**{name: value}))
        (text,) = requested(completion(**{name: value}))
        assert (plain.sampling, plain.stop) == (Sampling(), StopConditions(max_tokens=MODEL_LEN - len("user:hi")))
        assert (text.sampling, text.stop) == (Sampling(), StopConditions(max_tokens=16))


@pytest.mark.parametrize("name", sorted({*HARMLESS_IN_MESSAGES, *OFF_IN_MESSAGES}))
def test_field_of_a_message_when_harmless_then_it_passes(name: str) -> None:
    values = (None, [{"any": "thing"}]) if name in HARMLESS_IN_MESSAGES else (None, *OFF_IN_MESSAGES[name])

    for value in values:
        assert chat(messages=[{**USER, name: value}]).prompts(ENGINE) == chat().prompts(ENGINE)


@pytest.mark.parametrize("name", sorted(HARMLESS_IN_PARTS))
def test_field_of_a_part_when_it_changes_nothing_then_it_passes(name: str) -> None:
    part = {"type": "text", "text": "hi", name: {"any": "thing"}}

    assert chat(messages=[{"role": "user", "content": [part]}]).prompts(ENGINE) == chat().prompts(ENGINE)


SERVED = {"model", "messages", "prompt", "stream", "stream_options", "stop", "seed", "temperature", "top_p"}
SERVED |= {"max_tokens", "max_completion_tokens", "n", "logit_bias", "presence_penalty", "frequency_penalty"}
SERVED |= {"response_format", "structured_outputs"}
SERVED_BY: dict[type[GenerationBody], set[str]] = {
    ChatBody: {"tools", "tool_choice", "parallel_tool_calls", "logprobs", "top_logprobs", "chat_template_kwargs"},
    CompletionBody: {"best_of", "echo", "logprobs"},
}


NAMES = (
    {
        *chat_params.CompletionCreateParamsBase.__annotations__,
        *CompletionCreateParamsBase.__annotations__,
        *OFF,
        # What issue 9 found ignored, and a few of each engine's documentation.
        *("json_schema", "regex", "ebnf", "samplers", "n_predict", "max_new_tokens", "num_ctx", "enable_thinking"),
        *("thinking", "reasoning", "lora_path", "guided_json", "chat_template"),
        *("truncate_prompt_tokens", "prompt_logprobs", "allowed_token_ids", "keep_alive", "format", "raw", "think"),
        "Temperature",
    }
    - SERVED
    - HARMLESS
)


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [(endpoint, name) for endpoint, served in SERVED_BY.items() for name in sorted(NAMES - served)],
)
def test_field_when_its_value_has_an_effect_then_refused_by_name(endpoint: type[GenerationBody], name: str) -> None:
    prompt = {"messages": [USER]} if endpoint is ChatBody else {"prompt": "hi"}
    error = refusal(endpoint, {"model": "m", **prompt, name: {"ask": "for something"}})

    assert (error.http_status, error.reason, error.param) == (400, "UnsupportedParameter", name)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"messages": [USER, {**REPLAYED, "prefix": True}]}, "messages[1].prefix"),
        ({"messages": [{**USER, "images": ["…"]}]}, "messages[0].images"),
        ({"messages": [{"role": "user", "content": [*PARTS, IMAGE]}]}, "messages[0].content[2].image_url"),
        ({"add_special_tokens": True}, "add_special_tokens"),
    ],
)
def test_field_of_chat_when_not_served_then_refused_by_its_path(fields: dict[str, Any], param: str) -> None:
    error = refusal(ChatBody, {"model": "m", "messages": [USER], **fields})

    assert (error.reason, error.param) == ("UnsupportedParameter", param)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("n_predict", "Use `max_tokens`"),
        ("max_new_tokens", "Use `max_tokens`"),
        ("stop_sequences", "Use `stop`"),
        ("maxTokens", "Did you mean `max_tokens`?"),
        ("temprature", "Did you mean `temperature`?"),
        ("message", "Did you mean `messages`?"),
        ("prompt", "Send it to /v1/completions, or as `messages`"),
        ("num_ctx", "The model's length is spec.runtime.llm.maxModelLen"),
        ("grammar", "Use `structured_outputs`"),
        ("bad_words", "Leave it out"),
    ],
)
def test_refusal_then_it_says_what_to_do_instead(name: str, hint: str) -> None:
    error = refusal(ChatBody, {"model": "m", "messages": [USER], name: "something"})

    assert str(error) == f"`{name}` is not supported here. {hint}"


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({"a_field_of_tomorrow": 1, "do_sample": True}, ["a_field_of_tomorrow", "do_sample"]),
        ({"": 1}, [""]),
        ({"bad\r\nname: é": 1}, ["bad??name???"]),
        ({"x" * 100_000: 1}, ["x" * 64]),
        ({"messages": [{**USER, "mood": 1}, {**USER, "mood": 2}]}, ["messages[].mood"]),
        ({"messages": [{"role": "user", "content": [{**PARTS[0], "emphasis": 1}]}]}, ["messages[].content[].emphasis"]),
        ({f"zzz{number}": 1 for number in range(100_000)}, [f"zzz{number}" for number in range(MAX_IGNORED)]),
    ],
)
def test_field_that_nobody_knows_then_ignored_by_name(fields: dict[str, Any], ignored: list[str]) -> None:
    body = chat(**fields)

    assert body.ignored == ignored
    assert requested(body)


@pytest.mark.parametrize(
    ("body", "served"),
    [
        ({"prompt": "hi", "add_special_tokens": True}, True),
        ({"prompt": "hi", "add_special_tokens": False}, False),
        ({"messages": [USER], "add_special_tokens": False}, True),
        ({"messages": [USER], "add_special_tokens": True}, False),
        ({"messages": [USER], "prompt": "hi"}, False),
        ({"prompt": "hi", "return_token_strs": True}, True),
        ({"prompt": "hi", "return_token_strs": False}, True),
    ],
)
def test_tokenize_when_an_option_is_not_served_then_refused(
    body: dict[str, Any],
    served: bool,  # noqa: FBT001 - a column of the table
) -> None:
    raw = json.dumps(body).encode()
    if served:
        assert TokenizeBody.read(raw).tokens(ENGINE)
    else:
        with pytest.raises(RequestError):
            TokenizeBody.read(raw).tokens(ENGINE)
