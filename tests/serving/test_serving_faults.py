"""What a person reads who sent a bad body: the field at fault, and what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest
from serving.serving_bodies import USER, refusal

from headrace.serving.openai.chats import ChatBody
from headrace.serving.openai.completions import CompletionBody
from headrace.serving.openai.requests import GenerationBody

TOOL = {"type": "function", "function": {"name": "f"}}
CHOICE = {"type": "function", "function": {"name": "g"}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
LONG_SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"description": "x" * 65536}}}


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        # Unions: the branch that was meant.
        ({"stop": list("abcde")}, "stop", "`stop`: list should have at most 4 items, not 5"),
        ({"stop": [1]}, "stop[0]", "`stop[0]`: input should be a valid string"),
        ({"stop": ["a", ""]}, "stop[1]", "`stop[1]`: string should have at least 1 character"),
        ({"stop": "x" * 257}, "stop", "`stop`: string should have at most 256 characters"),
        ({"stop": ["x" * 257]}, "stop[0]", "`stop[0]`: string should have at most 256 characters"),
        ({"stop": 5}, "stop", "`stop`: input should be a string or a list of strings"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "a string or a list of parts"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "a string or a list of parts"),
        ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content", "a string or a list of parts"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content[0]", "should be an object"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type", "required"),
        ({"messages": [{"role": "user", "content": [{"type": 5}]}]}, "messages[0].content[0].type", "be 'text'"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text", "required"),
        # The cause, not what follows from it.
        ({"function_call": {"name": "f"}, "functions": [{}]}, "functions", "`functions` is not supported here"),
        ({"tool_choice": "required"}, "tool_choice", "requires a call, and there are no `tools`"),
        ({"tool_choice": CHOICE, "tools": [TOOL]}, "tool_choice", "there is no tool 'g' in `tools`"),
        ({"tool_choice": {"type": "allowed_tools"}, "tools": [TOOL]}, "tool_choice.type", "should be 'function'"),
        ({"tools": [TOOL, TOOL]}, "tools", "two tools have the same name"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "should be 'function'"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "match pattern"),
        ({"tools": [TOOL] * 129}, "tools", "at most 128 items"),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"tools": [{"type": "function", "function": {"name": "broken"}}]}, "tools", "not supported"),
        ({"messages": [USER, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id", "each message of role"),
        ({"messages": [{**USER, "tool_call_id": "c"}]}, "messages[0].tool_call_id", "and to no other"),
        ({"messages": [{**USER, "tool_calls": [CALL]}]}, "messages[0].tool_calls", "only allowed in role assistant"),
        ({"top_logprobs": 3}, "top_logprobs", "only allowed with `logprobs: true`"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "less than or equal to 20"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "is missing"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "should be 'text', 'json_object'"),
        ({"response_format": LONG_SCHEMA}, "response_format.json_schema.schema", "65536 are allowed"),
        ({"structured_outputs": {}}, "structured_outputs", "exactly one of"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs", "exactly one of"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
            "exclude each other",
        ),
        ({"logit_bias": {"x": 1}}, "logit_bias", "a key is a token id"),
        ({"logit_bias": {"256": 1}}, "logit_bias", "a token id is a number from 0 to 255"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "less than or equal to 100"),
        ({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias", "at most 1024 items"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 9}, "n", "9 answers in one request, and a replica processes 8 at once"),
        ({"min_p": 1.5}, "min_p", "less than or equal to 1"),
        ({"presence_penalty": 2.5}, "presence_penalty", "less than or equal to 2"),
        ({"repetition_penalty": 0.001}, "repetition_penalty", "greater than or equal to 0.01"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens", "at most 8 tokens"),
        ({"messages": None, "prompt": "hi"}, "prompt", "Send it to /v1/completions"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].image_url",
            "`messages[0].content[0].image_url` is not supported here. This model reads text only",
        ),
        # Plain ones.
        ({"messages": []}, "messages", "`messages`: list should have at least 1 item, not 0"),
        ({"messages": "hi"}, "messages", "should be a valid array"),
        ({"messages": [5]}, "messages[0]", "`messages[0]`: input should be an object"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "required"),
        (
            {"messages": [{"role": "critic", "content": "x"}]},
            "messages[0].role",
            "input should be 'system', 'developer', 'user', 'assistant' or 'tool'",
        ),
        ({"messages": [{**USER, "name": 5}]}, "messages[0].name", "string"),
        ({"model": 5}, "model", "`model`: input should be a valid string"),
        ({"model": None}, "model", "string"),
        ({"temperature": 3}, "temperature", "`temperature`: input should be less than or equal to 2"),
        ({"temperature": "0.5"}, "temperature", "number"),
        ({"temperature": -0.1}, "temperature", "greater than or equal to 0"),
        ({"temperature": float("nan")}, "temperature", "finite"),
        ({"top_p": -0.01}, "top_p", "greater than or equal to 0"),
        ({"top_p": 1.01}, "top_p", "less than or equal to 1"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens", "integer"),
        ({"seed": 2**64}, "seed", "less than"),
        ({"stop_token_ids": [1, "2"]}, "stop_token_ids[1]", "integer"),
        ({"stop_token_ids": [256]}, "stop_token_ids", "a token id is a number from 0 to 255"),
        ({"stop_token_ids": [-1]}, "stop_token_ids", "a token id is a number from 0 to 255"),
        ({"stop_token_ids": [1] * 1025}, "stop_token_ids", "at most 1024 items"),
        ({"stream": "yes"}, "stream", "boolean"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "only allowed with `stream: true`"),
        ({"stream": True, "stream_options": {"include_usage": "x"}}, "stream_options.include_usage", "boolean"),
        ({"stream": True, "stream_options": "usage"}, "stream_options", "should be an object"),
    ],
)
def test_chat_when_a_field_is_wrong_then_the_error_is_about_it(
    fields: dict[str, Any], param: str, message: str
) -> None:
    error = refusal(ChatBody, {"model": "m", "messages": [USER], **fields})

    assert (error.http_status, error.param) == (400, param)
    assert message in str(error)


@pytest.mark.parametrize(
    ("prompt", "param", "message"),
    [
        (5, "prompt", "`prompt`: input should be a string, a list of strings, or token ids"),
        (None, "prompt", "a string, a list of strings, or token ids"),
        ({"text": "hi"}, "prompt", "a string, a list of strings, or token ids"),
        ([True], "prompt", "a string, a list of strings, or token ids"),
        ([], "prompt", "at least 1 item"),
        ([[]], "prompt[0]", "`prompt[0]`: list should have at least 1 item, not 0"),
        (["a", 5], "prompt[1]", "`prompt[1]`: input should be a valid string"),
        ([5, "a"], "prompt[1]", "`prompt[1]`: input should be a valid integer"),
        ([1.5], "prompt", "a string, a list of strings, or token ids"),
        ([[1, 2], [1, "x"]], "prompt[1][1]", "integer"),
        ([[1], "x"], "prompt[1]", "array"),
        ([256], "prompt", "`prompt`: a token id is a number from 0 to 255"),
        ([[1], [-1]], "prompt[1]", "`prompt[1]`: a token id is a number from 0 to 255"),
        ("", "prompt", "`prompt` is empty"),
        (["a", ""], "prompt[1]", "`prompt[1]` is empty"),
        (["a"] * 9, "prompt", "9 answers in one request, and a replica processes 8 at once. Send several requests"),
        (["a", "x" * 4090], "prompt[1]", "the model length is 4096 tokens"),
        (["a", "x" * 5000], "prompt[1]", "5000 bytes of text are more in any case"),
    ],
)
def test_completion_when_its_prompt_is_wrong_then_it_is_named(prompt: object, param: str, message: str) -> None:
    error = refusal(CompletionBody, {"model": "m", "prompt": prompt})

    assert (error.http_status, error.param) == (400, param)
    assert message in str(error)


@pytest.mark.parametrize("endpoint", [ChatBody, CompletionBody])
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the body is not JSON: EOF while parsing a value at line 1 column 0. Check quotes, commas and braces"),
        (b"{", "the body is not JSON: EOF while parsing an object at line 1 column 1"),
        (b'{"model": "m",}', "the body is not JSON: trailing comma"),
        (b"\xff\xfe", "the body is not JSON: "),
        (b"[" * 1000, "the body is not JSON: recursion limit exceeded"),
        (b'{"model": "\\ud800"}', "the body is not JSON: "),
        (b"[]", "the body: input should be an object"),
        (b"5", "the body: input should be an object"),
    ],
)
def test_body_when_it_is_no_object_then_it_says_where(endpoint: type[GenerationBody], raw: bytes, message: str) -> None:
    error = refusal(endpoint, raw)

    assert error.param is None
    assert message in str(error)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": {"secret": "secret"}},
        {"role": "secret", "content": "secret"},
        {"role": "user", "content": [{"type": "text", "text": ["secret"]}]},
    ],
)
def test_fault_when_in_a_prompt_then_the_error_does_not_quote_it(message: dict[str, Any]) -> None:
    assert "secret" not in str(refusal(ChatBody, {"model": "m", "messages": [message]}))
