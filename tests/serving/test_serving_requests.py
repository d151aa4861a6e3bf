"""What requests may say. Pure: the engine is the echo, of which nothing is generated."""

from __future__ import annotations

import json
from typing import Any

import pytest
from serving.serving_echo import MODEL_LEN, EchoEngine

from headrace.serving.engine import Sampling
from headrace.serving.errors import ContextLengthExceeded, RequestError
from headrace.serving.openai.requests import REFUSED, ChatBody, CompletionBody, DetokenizeBody, checked_tokens

ENGINE = EchoEngine(step_seconds=0)
USER = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> ChatBody:
    return ChatBody.read(json.dumps({"model": "m", "messages": USER, **fields}).encode())


def completion(prompt: object, **fields: Any) -> CompletionBody:
    return CompletionBody.read(json.dumps({"model": "m", "prompt": prompt, **fields}).encode())


def sampled(**fields: Any) -> Sampling:
    body = chat(**fields)
    return body.sampling(len(body.prompt_tokens(ENGINE)), MODEL_LEN)


def refusal(**fields: Any) -> RequestError:
    with pytest.raises(RequestError) as raised:
        sampled(**fields)
    return raised.value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 0}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -0.5}, "frequency_penalty"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"min_tokens": 5}, "min_tokens"),
        ({"min_p": 0.1}, "min_p"),
        ({"guided_json": {}}, "guided_json"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [*USER, {"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages[1].tool_calls"),
    ],
)
def test_option_when_it_is_not_implemented_then_it_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)

    assert (error.http_status, error.reason, error.param) == (400, "UnsupportedParameter", param)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_option_when_it_is_off_then_it_is_tolerated(name: str) -> None:
    for off in (None, *REFUSED[name]):
        chat(**{name: off})


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "someone", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"some_other_engines_field": {"x": 1}},
        {"temperature": None, "top_p": None, "seed": None, "stop": None, "stream": None, "max_tokens": None},
        {"messages": [{"role": "user", "content": "hi", "name": "alice"}]},
        {"stop": ""},
    ],
)
def test_field_when_it_means_nothing_here_then_it_is_tolerated(fields: dict[str, Any]) -> None:
    body = chat(**fields)

    assert body.sampling(2, MODEL_LEN) == Sampling(max_tokens=MODEL_LEN - 2)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages[0].content[0].text"),
        ({"model": 5}, "model"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [1]}, "stop[0]"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": "x"}}, "stream_options.include_usage"),
    ],
)
def test_field_when_it_is_wrong_then_the_error_names_it(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)

    assert (error.http_status, error.reason, error.param) == (400, "InvalidRequest", param)


def test_fault_when_it_is_in_a_prompt_then_the_error_does_not_quote_it() -> None:
    assert "secret" not in str(refusal(messages=[{"role": "user", "content": {"secret": "secret"}}]))


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"5", b"\xff\xfe", b'{"model": "m"'])
def test_body_when_it_is_no_object_then_it_is_refused(raw: bytes) -> None:
    with pytest.raises(RequestError) as raised:
        ChatBody.read(raw)

    assert raised.value.param is None


def test_prompt_and_answer_when_they_do_not_fit_then_the_request_is_refused() -> None:
    body = chat(max_tokens=100)

    body.sampling(MODEL_LEN - 100, MODEL_LEN)
    with pytest.raises(ContextLengthExceeded, match=r"4096 tokens.* 3997 of the prompt and up to 100"):
        body.sampling(MODEL_LEN - 99, MODEL_LEN)


def test_prompt_when_it_fills_the_model_then_the_request_is_refused() -> None:
    with pytest.raises(ContextLengthExceeded):
        chat().sampling(MODEL_LEN, MODEL_LEN)


def test_answer_when_no_length_is_asked_for_then_chat_fills_the_model_and_completions_take_16() -> None:
    assert chat().sampling(96, MODEL_LEN).max_tokens == 4000
    assert completion("x").sampling(96, MODEL_LEN).max_tokens == 16


def test_sampling_then_every_field_arrives() -> None:
    body = chat(temperature=0.5, top_p=0.9, top_k=-1, seed=7, stop="x", ignore_eos=True, max_completion_tokens=9)

    assert body.sampling(1, MODEL_LEN) == Sampling(
        max_tokens=9, temperature=0.5, top_p=0.9, top_k=0, seed=7, stop=("x",), ignore_eos=True
    )


def test_messages_with_parts_and_a_developer_then_they_are_joined_as_vllm_does() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = chat(messages=[{"role": "developer", "content": "d"}, {"role": "user", "content": parts}])

    assert ENGINE.decode(body.prompt_tokens(ENGINE)) == "system:d|user:a\nb"


@pytest.mark.parametrize("prompt", ["ab", [97, 98], ["ab"], [[97, 98]]])
def test_prompt_in_each_of_its_forms_then_it_is_the_same_tokens(prompt: object) -> None:
    assert completion(prompt).prompt_tokens(ENGINE) == [97, 98]


@pytest.mark.parametrize("prompt", [["a", "b"], [256], [-1], [[1], [2]]])
def test_prompt_when_it_is_several_or_no_tokens_of_the_model_then_it_is_refused(prompt: object) -> None:
    with pytest.raises(RequestError) as raised:
        completion(prompt).prompt_tokens(ENGINE)

    assert raised.value.param == "prompt"


def test_tokens_when_one_is_not_the_models_then_it_is_refused_by_its_field() -> None:
    body = DetokenizeBody.read(b'{"tokens": [1, 300]}')

    with pytest.raises(RequestError, match="from 0 to 255"):
        checked_tokens(body.tokens, ENGINE, param="tokens")


@pytest.mark.parametrize("field", ["prompt", "messages"])
def test_prompt_when_no_number_of_tokens_can_hold_it_then_it_is_refused_unread(
    monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    engine = EchoEngine(step_seconds=0)
    for name in ("encode", "encode_chat"):
        monkeypatch.delattr(EchoEngine, name)
    text = "x" * (engine.model_len * engine.longest_token + 1)
    body = completion(text) if field == "prompt" else chat(messages=[{"role": "user", "content": text}])
    with pytest.raises(ContextLengthExceeded) as raised:
        body.prompt_tokens(engine)
    assert raised.value.param == field
