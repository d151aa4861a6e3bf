"""What an engine gets of a request. Pure: the engine is the echo, of which nothing is generated."""

from __future__ import annotations

from dataclasses import replace

import pytest
from serving.serving_bodies import ENGINE, chat, completion, requested
from serving.serving_echo import MODEL_LEN, EchoEngine

from headrace.serving.engine import Chat, ChatMessage, GenerationRequest, Sampling, StopConditions
from headrace.serving.errors import ContextLengthExceeded, RequestError
from headrace.serving.openai.requests import DetokenizeBody, Prompt, checked_tokens


def prompt_of(size: int) -> Prompt:
    return Prompt([1] * size, "messages")


def test_prompt_and_answer_when_too_long_then_refused() -> None:
    body = chat(max_tokens=100)

    body.request(prompt_of(MODEL_LEN - 100), ENGINE)
    with pytest.raises(ContextLengthExceeded, match=r"4096 tokens.* 3997 of the prompt and up to 100"):
        body.request(prompt_of(MODEL_LEN - 99), ENGINE)


def test_prompt_when_it_fills_the_context_then_refused() -> None:
    with pytest.raises(ContextLengthExceeded):
        chat().request(prompt_of(MODEL_LEN), ENGINE)


def test_length_when_not_given_then_the_endpoints_default() -> None:
    assert chat().request(prompt_of(96), ENGINE).stop.max_tokens == 4000
    assert completion().request(prompt_of(96), ENGINE).stop.max_tokens == 16


def test_request_then_every_field_arrives() -> None:
    body = chat(
        temperature=0.5,
        top_p=0.9,
        top_k=-1,
        seed=7,
        stop="x",
        stop_token_ids=[3, 255, 3],
        ignore_eos=True,
        max_tokens=9,
    )

    assert body.request(prompt_of(1), ENGINE) == GenerationRequest(
        (1,),
        Sampling(temperature=0.5, top_p=0.9, top_k=0, seed=7),
        StopConditions(max_tokens=9, strings=("x",), token_ids=frozenset({3, 255}), ignore_eos=True),
    )


def test_request_when_fields_are_null_or_empty_then_defaults() -> None:
    nulls = dict.fromkeys(("temperature", "top_p", "top_k", "seed", "stream", "max_tokens", "stop_token_ids"))
    (default,) = requested(chat())

    assert requested(chat(**nulls, stop="")) == requested(chat(stop=[], stop_token_ids=[])) == [default]


@pytest.mark.parametrize("temperature", [None, 0, 1.5])
def test_top_p_when_it_is_0_then_it_is_greedy(temperature: float | None) -> None:
    (greedy,) = requested(chat(temperature=0))

    assert requested(chat(top_p=0, temperature=temperature)) == [greedy]


def test_length_when_both_names_are_given_then_the_newer_wins() -> None:
    for body in (chat(max_tokens=9, max_completion_tokens=5), completion(max_tokens=9, max_completion_tokens=5)):
        assert [each.stop.max_tokens for each in requested(body)] == [5]


def test_messages_with_parts_then_they_are_joined_as_in_vllm() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = chat(messages=[{"role": "developer", "content": "d"}, {"role": "user", "content": parts}])

    (prompt,) = body.prompts(ENGINE)

    assert ENGINE.decode(prompt.tokens) == "system:d|user:a\nb"


def test_message_with_a_name_then_the_template_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EchoEngine(step_seconds=0)
    seen: list[ChatMessage] = []

    def encode_chat(chat: Chat) -> list[int]:
        seen.extend(chat.messages)
        return [1]

    monkeypatch.setattr(engine, "encode_chat", encode_chat)
    chat(messages=[{"role": "user", "content": "hi", "name": "alice"}, {"role": "user", "content": "ho"}]).prompts(
        engine
    )

    assert seen == [ChatMessage("user", "hi", "alice"), ChatMessage("user", "ho", None)]


@pytest.mark.parametrize("prompt", ["ab", [97, 98], ["ab"], [[97, 98]]])
def test_prompt_in_each_of_its_forms_then_it_is_the_same_tokens(prompt: object) -> None:
    assert completion(prompt).prompts(ENGINE) == [Prompt([97, 98], "prompt")]


@pytest.mark.parametrize("prompt", [["ab", "c"], [[97, 98], [99]]])
def test_prompts_when_there_are_several_then_each_is_one(prompt: object) -> None:
    body = completion(prompt, seed=5)

    assert body.prompts(ENGINE) == [Prompt([97, 98], "prompt[0]"), Prompt([99], "prompt[1]")]
    (single,) = requested(completion(seed=5))
    assert requested(body) == [replace(single, prompt_tokens=tokens) for tokens in ((97, 98), (99,))]


def test_tokens_when_one_is_unknown_then_refused_by_field() -> None:
    body = DetokenizeBody.read(b'{"tokens": [1, 300]}')

    with pytest.raises(RequestError, match=r"`tokens`.* from 0 to 255"):
        checked_tokens(body.tokens, ENGINE, param="tokens")


@pytest.mark.parametrize("field", ["prompt", "messages"])
def test_prompt_when_it_can_never_fit_then_refused_unread(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    engine = EchoEngine(step_seconds=0)
    for name in ("encode", "encode_chat"):
        monkeypatch.delattr(EchoEngine, name)
    text = "x" * (engine.model_len * engine.longest_token + 1)
    body = completion(text) if field == "prompt" else chat(messages=[{"role": "user", "content": text}])
    with pytest.raises(ContextLengthExceeded) as raised:
        body.prompts(engine)
    assert raised.value.param == field
