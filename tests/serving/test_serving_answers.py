from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.http.answers import CURSOR
from headrace.serving.engine import Delta, FinishReason, GenerationRequest, Sampling, StopConditions
from headrace.serving.openai.answers import CHAT, TEXT, Answer, Shape
from headrace.serving.openai.requests import StreamOptions
from headrace.serving.openai.streams import Step

REQUEST = GenerationRequest((0,) * 7, Sampling(), StopConditions(max_tokens=9))
NASTY = 'a"b\\c\n\t\x00é漢🦀</script>\u2028'
DELTAS = (Delta("Hel", (1,)), Delta("", (2,)), Delta(NASTY, (3, 4), FinishReason.STOP))


def streamed(shape: Shape, options: StreamOptions | None = None, prompts: int = 1) -> list[Any]:
    answer = Answer(shape, "the model", [REQUEST] * prompts, options)
    steps = [Step(index, delta) for delta in DELTAS for index in reversed(range(prompts))]
    raw = answer.open() + b"".join(answer.chunk(step) for step in steps) + answer.close()
    *events, end, rest = raw.decode().split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_chat_stream_then_it_has_a_role_the_text_and_a_reason() -> None:
    chunks = streamed(CHAT)

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
    chunks = streamed(TEXT)

    assert [(chunk["choices"][0]["text"], chunk["choices"][0]["finish_reason"]) for chunk in chunks] == [
        ("Hel", None),
        (NASTY, None),
        ("", "stop"),
    ]


def test_stream_with_usage_then_only_the_last_chunk_has_it() -> None:
    *chunks, last = streamed(CHAT, StreamOptions(include_usage=True))

    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}


def test_stream_with_continuous_usage_then_each_chunk_has_it() -> None:
    chunks = streamed(CHAT, StreamOptions(include_usage=True, continuous_usage_stats=True))

    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 4, 4, 4]


def test_stream_of_several_answers_then_each_has_its_index() -> None:
    *chunks, last = streamed(TEXT, StreamOptions(include_usage=True), prompts=2)

    for index in (0, 1):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert [(each["text"], each["finish_reason"]) for each in own] == [("Hel", None), (NASTY, None), ("", "stop")]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert last["usage"] == {"prompt_tokens": 14, "completion_tokens": 8, "total_tokens": 22}


def test_whole_of_several_answers_then_in_order_of_the_prompts() -> None:
    answer = Answer(TEXT, "the model", [REQUEST] * 3, None)
    for index in (2, 0, 1):
        assert not answer.complete
        answer.add(Step(index, Delta(f"answer {index}", (1,), FinishReason.LENGTH)))

    assert answer.complete
    whole = answer.whole()
    assert [(each["index"], each["text"]) for each in whole["choices"]] == [(n, f"answer {n}") for n in range(3)]
    assert whole["usage"] == {"prompt_tokens": 21, "completion_tokens": 3, "total_tokens": 24}


@pytest.mark.parametrize(
    ("shape", "choice"),
    [
        (CHAT, {"message": {"role": "assistant", "content": "Hel" + NASTY, "refusal": None}}),
        (TEXT, {"text": "Hel" + NASTY}),
    ],
)
def test_whole_answer_then_it_has_text_reason_and_usage(shape: Shape, choice: dict[str, Any]) -> None:
    answer = Answer(shape, "the model", [REQUEST], None)
    for delta in DELTAS:
        answer.add(Step(0, delta))

    whole = answer.whole()

    assert whole["choices"] == [{"index": 0, **choice, "logprobs": None, "finish_reason": FinishReason.STOP}]
    assert whole["usage"] == {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
    assert (whole["object"], whole["model"]) == (shape.whole, "the model")


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
    shape=st.sampled_from([CHAT, TEXT]),
    options=st.sampled_from([None, StreamOptions(include_usage=True, continuous_usage_stats=True)]),
)
def test_cursor_when_the_stream_is_cut_then_it_counts_what_came(
    data: st.DataObject, answers: list[list[str]], shape: Shape, options: StreamOptions | None
) -> None:
    """Wherever it is cut, the client has the text of exactly so many tokens, and the end with all of them.

    An answer is given as what each token adds; one that adds nothing is counted with the next event.
    """
    answer = Answer(shape, "m", [CURSORS] * len(answers), options)
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
    answer = Answer(CHAT, "m", [CURSORS], None)
    assert CURSOR not in answer.open() + b"".join(answer.chunk(Step(0, delta)) for delta in DELTAS) + answer.close()


def test_cursor_when_the_client_does_not_ask_then_there_is_none() -> None:
    answer = Answer(CHAT, "m", [REQUEST], None)
    assert CURSOR not in answer.chunk(Step(0, Delta("text", (0,), cursor=1)))
