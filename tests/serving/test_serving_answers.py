from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving.serving_echo import logprob
from serving.serving_parser import EchoParser

from headrace.http.answers import CURSOR
from headrace.serving.engine import Delta, FinishReason, GenerationRequest, Sampling, StopConditions, TokenLogprob
from headrace.serving.openai.answers import ChatAnswer, OpenAIAnswer, TextAnswer
from headrace.serving.openai.logprobs import text_logprobs
from headrace.serving.openai.plan import Plan
from headrace.serving.openai.streams import Step

REQUEST = GenerationRequest((0,) * 7, Sampling(), StopConditions(max_tokens=9))
NASTY = 'a"b\\c\n\t\x00é漢🦀</script>\u2028'
DELTAS = (Delta("Hel", (1,)), Delta("", (2,)), Delta(NASTY, (3, 4), FinishReason.STOP))


CACHED = {"prompt_tokens_details": {"cached_tokens": 0}}
USAGE, CONTINUOUS = {"include_usage": True}, {"include_usage": True, "continuous_usage": True}


def answered(shape: type[OpenAIAnswer], *requests: GenerationRequest, **plan: Any) -> OpenAIAnswer:
    return shape("the model", Plan(requests, **plan), chr)


def streamed(shape: type[OpenAIAnswer], prompts: int = 1, **plan: Any) -> list[Any]:
    answer = answered(shape, *[REQUEST] * prompts, **plan)
    steps = [Step(index, delta) for delta in DELTAS for index in reversed(range(prompts))]
    raw = answer.open() + b"".join(answer.chunk(step) for step in steps) + answer.close()
    *events, end, rest = raw.decode().split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_chat_stream_then_it_has_a_role_the_text_and_a_reason() -> None:
    chunks = streamed(ChatAnswer)

    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": NASTY}, "finish_reason": None}],
        [{"index": 0, "delta": {}, "finish_reason": "stop"}],
    ]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert chunks[0]["id"].startswith("chatcmpl-")
    assert all("usage" not in chunk for chunk in chunks)


def test_text_stream_then_it_has_the_text_and_a_reason() -> None:
    chunks = streamed(TextAnswer)

    assert [(chunk["choices"][0]["text"], chunk["choices"][0]["finish_reason"]) for chunk in chunks] == [
        ("Hel", None),
        (NASTY, None),
        ("", "stop"),
    ]


def test_stream_with_usage_then_only_the_last_chunk_has_it() -> None:
    *chunks, last = streamed(ChatAnswer, **USAGE)

    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11, **CACHED}


def test_stream_with_continuous_usage_then_each_chunk_has_it() -> None:
    chunks = streamed(ChatAnswer, **CONTINUOUS)

    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 4, 4, 4]


def test_stream_of_several_answers_then_each_has_its_index() -> None:
    *chunks, last = streamed(TextAnswer, prompts=2, **USAGE)

    for index in (0, 1):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert [(each["text"], each["finish_reason"]) for each in own] == [("Hel", None), (NASTY, None), ("", "stop")]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert last["usage"] == {"prompt_tokens": 14, "completion_tokens": 8, "total_tokens": 22, **CACHED}


def test_whole_of_several_answers_then_in_order_of_the_prompts() -> None:
    answer = answered(TextAnswer, *[REQUEST] * 3)
    for index in (2, 0, 1):
        assert not answer.complete
        answer.add(Step(index, Delta(f"answer {index}", (1,), FinishReason.LENGTH)))

    assert answer.complete
    whole = answer.whole()
    assert [(each["index"], each["text"]) for each in whole["choices"]] == [(n, f"answer {n}") for n in range(3)]
    assert whole["usage"] == {"prompt_tokens": 21, "completion_tokens": 3, "total_tokens": 24, **CACHED}


@pytest.mark.parametrize(
    ("shape", "choice"),
    [
        (ChatAnswer, {"message": {"role": "assistant", "content": "Hel" + NASTY}}),
        (TextAnswer, {"text": "Hel" + NASTY}),
    ],
)
def test_whole_answer_then_it_has_text_reason_and_usage(shape: type[OpenAIAnswer], choice: dict[str, Any]) -> None:
    answer = answered(shape, REQUEST)
    for delta in DELTAS:
        answer.add(Step(0, delta))

    whole = answer.whole()

    assert whole["choices"] == [{"index": 0, **choice, "finish_reason": FinishReason.STOP}]
    assert whole["usage"] == {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11, **CACHED}
    assert (whole["object"], whole["model"]) == (shape.whole_object, "the model")


CURSORS = replace(REQUEST, cursors=True)


@dataclass
class Received:
    """What a client has of a choice; `cursor` is valid, for its event is complete."""

    cursor: int = 0
    text: str = ""
    ended: bool = False


def cut(raw: bytes, choices: int) -> Iterator[list[Received]]:
    """Yield what a client has of each choice when a stream is cut after each of its events, of comments too."""
    received = [Received() for _ in range(choices)]
    pending: list[int] | None = None
    for event in raw.decode().split("\n\n")[:-2]:
        if event.startswith(CURSOR.decode()):
            pending = [int(each) for each in event.removeprefix(CURSOR.decode()).split(",")]
        else:
            for choice in json.loads(event.removeprefix("data: "))["choices"]:
                content = choice["delta"].get("content", "") if "delta" in choice else choice["text"]
                received[choice["index"]].text += content
                received[choice["index"]].ended |= choice["finish_reason"] is not None
            for each, cursor in zip(received, pending or [], strict=False):
                each.cursor = cursor
            pending = None
        yield [replace(each) for each in received]


@given(
    data=st.data(),
    answers=st.lists(st.lists(st.text(max_size=3), min_size=1, max_size=6), min_size=1, max_size=4),
    shape=st.sampled_from([ChatAnswer, TextAnswer]),
    options=st.sampled_from([{}, CONTINUOUS]),
)
def test_cursor_when_the_stream_is_cut_then_it_counts_what_came(
    data: st.DataObject, answers: list[list[str]], shape: type[OpenAIAnswer], options: dict[str, bool]
) -> None:
    """Wherever it is cut, the client has the text of exactly so many tokens, and the end with all of them.

    An answer is given as what each token adds; one that adds nothing is counted with the next event.
    """
    answer = answered(shape, *[CURSORS] * len(answers), **options)
    order = data.draw(st.permutations([index for index, texts in enumerate(answers) for _ in texts]))
    raw, done = answer.open(), [0] * len(answers)
    for index in order:
        text = answers[index][done[index]]
        done[index] += 1
        end = FinishReason.LENGTH if done[index] == len(answers[index]) else None
        raw += answer.chunk(Step(index, Delta(text, (0,), end, cursor=done[index])))

    received: list[Received] = []
    for received in cut(raw + answer.close(), len(answers)):
        for each, texts in zip(received, answers, strict=True):
            assert each.text == "".join(texts[: each.cursor])
            assert each.ended == (each.cursor == len(texts))
    assert sum(each.cursor for each in received) == answer.completion_tokens


def test_cursor_when_the_engine_cannot_resume_then_there_is_none() -> None:
    answer = answered(ChatAnswer, CURSORS)
    assert CURSOR not in answer.open() + b"".join(answer.chunk(Step(0, delta)) for delta in DELTAS) + answer.close()


def test_cursor_when_the_client_does_not_ask_then_there_is_none() -> None:
    answer = answered(ChatAnswer, REQUEST)
    assert CURSOR not in answer.chunk(Step(0, Delta("text", (0,), cursor=1)))


def finished(shape: type[OpenAIAnswer], texts: list[str], **plan: Any) -> dict[str, Any]:
    """Return the whole answer to requests whose answers are these texts, each in one step with its tokens."""
    answer = answered(shape, *[REQUEST] * len(texts), **plan)
    for index, text in enumerate(texts):
        logprobs = tuple(logprob(ord(letter), 2) for letter in text)
        answer.add(
            Step(index, Delta(text, tuple(map(ord, text)), FinishReason.STOP, logprobs=logprobs, cached_tokens=4))
        )
    return answer.whole()


def test_best_of_then_the_most_likely_answers_come_first() -> None:
    whole = finished(TextAnswer, ["xyz", "aei", "axx", "q", "a", "e"], samples=3, choices=2)

    assert [(each["index"], each["text"]) for each in whole["choices"]] == [(0, "aei"), (1, "axx"), (2, "a"), (3, "e")]
    assert whole["usage"]["prompt_tokens"] == 14
    assert whole["usage"]["completion_tokens"] == 12
    assert whole["usage"]["prompt_tokens_details"] == {"cached_tokens": 8}


def test_logprobs_of_chat_then_each_token_has_its_bytes() -> None:
    (choice,) = finished(ChatAnswer, ["ax"], logprobs=True)["choices"]

    a, space = {"token": "a", "logprob": -0.5, "bytes": [97]}, {"token": " ", "logprob": -1.0, "bytes": [32]}
    x = {"token": "x", "logprob": -2.0, "bytes": [120]}
    assert choice["logprobs"] == {
        "content": [{**a, "top_logprobs": [a, space]}, {**x, "top_logprobs": [space, x]}],
        "refusal": None,
    }


def test_logprobs_of_text_then_offsets_count_characters() -> None:
    (choice,) = finished(TextAnswer, ["ax"], logprobs=True)["choices"]

    assert choice["logprobs"] == {
        "tokens": ["a", "x"],
        "token_logprobs": [-0.5, -2.0],
        "top_logprobs": [{"a": -0.5, " ": -1.0}, {" ": -1.0, "x": -2.0}],
        "text_offset": [0, 1],
    }


def test_logprobs_when_infinite_then_json_has_a_number() -> None:
    made = text_logprobs([TokenLogprob(97, float("-inf"), ((97, float("-inf")),))], [97], chr, 0)

    assert (made["token_logprobs"], made["top_logprobs"]) == ([-9999.0], [{"a": -9999.0}])


def test_logprobs_when_texts_are_equal_then_the_likelier_is_kept() -> None:
    made = text_logprobs([TokenLogprob(1, -3.0, ((2, -0.5), (3, -1.0)))], [1], lambda _: "\N{REPLACEMENT CHARACTER}", 0)

    assert made["top_logprobs"] == [{"\N{REPLACEMENT CHARACTER}": -0.5}]


def test_stream_with_logprobs_then_textless_steps_have_chunks() -> None:
    answer = answered(ChatAnswer, REQUEST, logprobs=True)
    raw = answer.open() + answer.chunk(Step(0, Delta("", (97,), logprobs=(logprob(97, 0),))))

    last = json.loads(raw.decode().split("\n\n")[-2].removeprefix("data: "))
    assert last["choices"][0]["delta"] == {"content": ""}
    assert [each["token"] for each in last["choices"][0]["logprobs"]["content"]] == ["a"]


CALL = '<think>so</think>ok<call>f {"a":1}</call><call>g {}</call>'


def test_whole_answer_with_calls_then_parts_are_apart() -> None:
    (choice,) = finished(ChatAnswer, [CALL], parsers=(EchoParser(),))["choices"]

    assert choice["message"] == {
        "role": "assistant",
        "content": "ok",
        "reasoning_content": "so",
        "tool_calls": [
            {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
            {"id": "call_1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }
    assert choice["finish_reason"] == "tool_calls"


def test_whole_answer_with_only_a_call_then_content_is_null() -> None:
    (choice,) = finished(ChatAnswer, ["<call>g {}</call>"], parsers=(EchoParser(),))["choices"]

    assert choice["message"]["content"] is None


def test_stream_with_calls_then_arguments_come_in_pieces() -> None:
    answer = answered(ChatAnswer, REQUEST, parsers=(EchoParser(),))
    raw = answer.open()
    for letter in CALL:
        raw += answer.chunk(Step(0, Delta(letter, (0,))))
    raw += answer.chunk(Step(0, Delta("", (0,), FinishReason.STOP)))

    choices = [json.loads(event.removeprefix("data: "))["choices"][0] for event in raw.decode().split("\n\n")[:-1]]
    deltas = [choice["delta"] for choice in choices]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "so"
    assert "".join(delta.get("content", "") for delta in deltas) == "ok"
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert calls[0] == {"index": 0, "id": "call_0", "type": "function", "function": {"name": "f", "arguments": ""}}
    assert "".join(call["function"]["arguments"] for call in calls if call["index"] == 0) == '{"a":1}'
    assert len([call for call in calls if call["index"] == 0]) == 8
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_stream_of_plain_text_then_a_chunk_is_not_encoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = answered(ChatAnswer, REQUEST)
    answer.open()
    monkeypatch.delattr(OpenAIAnswer, "_chunk")

    assert b'"content":"x"' in answer.chunk(Step(0, Delta("x", (1,))))
