"""What an engine gets of a request. Pure: the engine is the echo, of which nothing is generated."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from serving.serving_bodies import ENGINE, chat, completion, refusal, requested
from serving.serving_echo import MODEL_LEN, EchoEngine

from headrace.serving.engine import (
    Chat,
    ChatMessage,
    Constraint,
    ConstraintKind,
    GenerationRequest,
    Sampling,
    StopConditions,
    Tool,
    ToolUse,
)
from headrace.serving.errors import ContextLengthExceeded, RequestError
from headrace.serving.openai.completions import CompletionBody
from headrace.serving.openai.plan import Prompt
from headrace.serving.openai.requests import checked_tokens
from headrace.serving.openai.tokens import DetokenizeBody, TokenizeBody

TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
F = Tool("f", "d", {"type": "object"})


def prompt_of(size: int) -> Prompt:
    return Prompt([1] * size, "messages")


def test_prompt_and_answer_when_too_long_then_refused() -> None:
    body = chat(max_tokens=100)

    body.request(prompt_of(MODEL_LEN - 100), ENGINE)
    with pytest.raises(ContextLengthExceeded, match=r"4096 tokens.* 3997 of the prompt and up to 100") as raised:
        body.request(prompt_of(MODEL_LEN - 99), ENGINE)
    assert raised.value.hint == "Shorten the prompt, or set `max_tokens` to 99 or less"


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
        min_tokens=2,
        include_stop_str_in_output=True,
        min_p=0.1,
        presence_penalty=-2,
        frequency_penalty=0.5,
        repetition_penalty=1.1,
        logit_bias={"5": -100, "6": 0.5},
        logprobs=True,
        top_logprobs=3,
        response_format={"type": "json_object"},
        cache_salt="team",
    )

    (request,) = requested(body)
    assert replace(request, prompt_tokens=()) == GenerationRequest(
        (),
        Sampling(
            temperature=0.5,
            top_p=0.9,
            top_k=0,
            seed=7,
            min_p=0.1,
            presence_penalty=-2.0,
            frequency_penalty=0.5,
            repetition_penalty=1.1,
            logit_bias=((5, -100.0), (6, 0.5)),
        ),
        StopConditions(
            max_tokens=9,
            strings=("x",),
            token_ids=frozenset({3, 255}),
            ignore_eos=True,
            min_tokens=2,
            include_string=True,
        ),
        logprobs=3,
        constraint=Constraint(ConstraintKind.JSON_SCHEMA, '{"type":"object"}', "response_format"),
        tenant="team",
    )


def test_prompt_logprobs_when_too_many_then_refused() -> None:
    """They are kept until the answer is written: eight long prompts with many alternatives would be 100 MB."""
    prompts = [[1] * (MODEL_LEN - 16)] * 8

    assert len(requested(completion(prompts, echo=True, logprobs=6))) == 8
    fault = refusal(CompletionBody, {"model": "m", "prompt": prompts, "echo": True, "logprobs": 8})
    assert fault.param == "logprobs"
    assert len(requested(completion(prompts, logprobs=20))) == 8


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
SCHEMA_TEXT = '{"type":"object","properties":{"a":{"type":"integer"}}}'


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "s", "schema": SCHEMA, "strict": True},
                }
            },
            ConstraintKind.JSON_SCHEMA,
            SCHEMA_TEXT,
        ),
        ({"structured_outputs": {"json": SCHEMA}}, ConstraintKind.JSON_SCHEMA, SCHEMA_TEXT),
        ({"structured_outputs": {"json": SCHEMA_TEXT}}, ConstraintKind.JSON_SCHEMA, SCHEMA_TEXT),
        ({"structured_outputs": {"regex": "a+"}}, ConstraintKind.REGEX, "a+"),
        ({"structured_outputs": {"choice": ["yes", "no (why?)"]}}, ConstraintKind.REGEX, r"yes|no\ \(why\?\)"),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, ConstraintKind.GRAMMAR, 'start: "a"'),
        ({"structured_outputs": {"json_object": True}}, ConstraintKind.JSON_SCHEMA, '{"type":"object"}'),
    ],
)
def test_constraint_in_each_form_then_the_engine_gets_it(
    fields: dict[str, Any], kind: ConstraintKind, text: str
) -> None:
    for body in (chat(**fields), completion(**fields)):
        (request,) = requested(body)
        assert request.constraint is not None
        assert (request.constraint.kind, request.constraint.text) == (kind, text)
    assert chat(response_format={"type": "text"}).constraint(ENGINE) is None


@pytest.mark.parametrize(
    ("fields", "use"),
    [
        ({"tools": [TOOL]}, ToolUse((F,))),
        ({"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False}, ToolUse((F,), parallel=False)),
        ({"tools": [TOOL], "tool_choice": "required"}, ToolUse((F,), required=True)),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            ToolUse((F,), required=True, name="f"),
        ),
        ({"tools": [TOOL], "tool_choice": "none"}, None),
        ({"tools": []}, None),
    ],
)
def test_tools_then_the_engine_gets_which_may_be_called(fields: dict[str, Any], use: ToolUse | None) -> None:
    body = chat(**fields)

    assert body.tool_use() == use
    (request,) = requested(body)
    assert request.special_tokens == (use is not None)


def test_history_with_calls_then_the_template_gets_it() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "so"},
        {"role": "tool", "content": "1", "tool_call_id": "c"},
    ]
    (prompt,) = chat(messages=messages, chat_template_kwargs={"deep": True}).prompts(ENGINE)

    said = 'deep=True|user:hi|assistant:<think>so</think><call>c f {"a":1}</call>|tool:1@c'
    assert ENGINE.decode(prompt.tokens) == said


def test_n_then_each_answer_has_its_own_seed() -> None:
    seeds = [request.sampling.seed for request in requested(completion(["a", "b"], n=3, seed=2**64 - 2))]

    assert seeds == [2**64 - 2, 2**64 - 1, 0] * 2
    assert [request.sampling.seed for request in requested(chat(n=3))] == [None] * 3


def test_best_of_then_the_answers_are_ranked_by_logprob() -> None:
    plan = completion(n=2, best_of=4).plan(ENGINE)

    assert (len(plan.requests), plan.samples, plan.choices, plan.logprobs) == (4, 4, 2, False)
    assert {request.logprobs for request in plan.requests} == {0}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"n": 9}, "n"),
        ({"prompt": ["a"] * 5, "n": 2}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"suffix": "end"}, "suffix"),
    ],
)
def test_completion_when_a_field_is_wrong_then_it_is_named(fields: dict[str, Any], param: str) -> None:
    assert refusal(CompletionBody, {"model": "m", "prompt": "hi", **fields}).param == param


@pytest.mark.parametrize(("wanted", "generated"), [(0, 1), (1, 1), (5, 5)])
def test_echo_then_the_prompts_logprobs_are_requested(wanted: int, generated: int) -> None:
    """As lm-eval sends it: token ids, `echo`, one token at most."""
    plan = completion([[97, 98], [99]], echo=True, logprobs=1, max_tokens=wanted).plan(ENGINE)

    assert (plan.echoes, plan.only_echo, plan.logprobs) == (("ab", "c"), wanted == 0, True)
    assert {(each.logprobs, each.prompt_logprobs, each.stop.max_tokens) for each in plan.requests} == {
        (1, 1, generated)
    }


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
def test_tokenize_when_it_can_never_fit_then_refused_unread(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    """Megabytes of text take seconds of a thread in which all requests are tokenized."""
    for name in ("encode", "encode_chat"):
        monkeypatch.delattr(EchoEngine, name)
    text = "x" * (MODEL_LEN + 1)
    body = {"prompt": text} if field == "prompt" else {"messages": [{"role": "user", "content": text}]}
    with pytest.raises(ContextLengthExceeded) as raised:
        TokenizeBody.read(json.dumps(body).encode()).tokens(ENGINE)
    assert raised.value.param == field


def test_template_options_when_they_can_never_fit_then_refused() -> None:
    with pytest.raises(ContextLengthExceeded):
        chat(chat_template_kwargs={"date_string": "x" * (MODEL_LEN + 1)}).prompts(ENGINE)


@pytest.mark.parametrize(("fields", "param"), [({"n": 9}, "n"), ({"n": 2, "best_of": 9}, "best_of")])
def test_answers_when_beyond_the_capacity_then_field_named(fields: dict[str, int], param: str) -> None:
    assert refusal(CompletionBody, {"model": "m", "prompt": "hi", **fields}).param == param


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
