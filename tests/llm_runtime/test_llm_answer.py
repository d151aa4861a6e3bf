"""From tokens to text: stop strings never leak, nothing else is lost, characters are whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.serving.engine import Delta, FinishReason, StopConditions
from headrace_llm.answer import Answer
from headrace_models.model_file import ModelFile
from headrace_models.tokenizer import ModelTokenizer

LOADED: list[ModelTokenizer] = []
"""Hypothesis runs a test many times, and takes no fixtures gladly."""


@pytest.fixture(autouse=True, scope="module")
def _tokenizer(smollm2_path: Path) -> Iterator[None]:
    LOADED.append(ModelTokenizer(ModelFile.open(smollm2_path)))
    yield
    LOADED.clear()


def answered(ids: list[int], conditions: StopConditions, *, cursors: bool = False) -> list[Delta]:
    """Feed tokens until the answer ends, or all of them."""
    answer, deltas = Answer(LOADED[0], conditions, cursors=cursors), []
    for token in ids:
        deltas.append(answer.add(token, room=10_000))
        if deltas[-1].finish_reason is not None:
            break
    return deltas


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(alphabet="ab🙂 é", min_size=1, max_size=30),
    stops=st.lists(st.text(alphabet="ab🙂 é", min_size=1, max_size=4), max_size=3),
    cursors=st.booleans(),
)
def test_text_when_it_meets_a_stop_then_it_ends_just_before_it(text: str, stops: list[str], *, cursors: bool) -> None:
    """Joined, the deltas are the text up to a stop string, or all of it; and no piece of a stop was told before."""
    ids = LOADED[0].encode(text)
    deltas = answered(ids, StopConditions(max_tokens=len(ids), strings=tuple(stops)), cursors=cursors)
    told = "".join(delta.text for delta in deltas)
    assert not any(stop in told for stop in stops)
    if any(stop in text for stop in stops):
        assert deltas[-1].finish_reason is FinishReason.STOP
        assert any(text.startswith(told + stop) for stop in stops)
    else:
        assert deltas[-1].finish_reason is FinishReason.LENGTH
        assert told == text


def test_delta_when_a_character_is_not_complete_then_it_waits() -> None:
    ids = LOADED[0].encode("🙂")
    assert len(ids) > 1
    deltas = answered(ids, StopConditions(max_tokens=100))
    assert [delta.text for delta in deltas] == [""] * (len(ids) - 1) + ["🙂"]


END, TURN, TEXT_END = 2, 1, 0
"""<|im_end|>, <|im_start|> and <|endoftext|>, of which the second ends nothing."""


@pytest.mark.parametrize("end", [END, TEXT_END])
def test_answer_when_an_end_token_comes_then_held_text_is_sent(end: int) -> None:
    deltas = answered([*LOADED[0].encode("one two"), end], StopConditions(max_tokens=100, strings=("two three",)))
    assert "".join(delta.text for delta in deltas) == "one two"
    assert deltas[-1].finish_reason is FinishReason.STOP


def test_end_token_when_ignored_then_the_answer_continues() -> None:
    ids = [END, TEXT_END, *LOADED[0].encode("more")]
    deltas = answered(ids, StopConditions(max_tokens=len(ids), ignore_eos=True))
    assert "".join(delta.text for delta in deltas) == "more"
    assert deltas[-1].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_answer_when_a_stop_token_comes_then_it_ends(*, ignore_eos: bool) -> None:
    hello, world, more = (LOADED[0].encode(text) for text in ("hello", " world", " more"))
    conditions = StopConditions(max_tokens=100, token_ids=frozenset(world), ignore_eos=ignore_eos)
    deltas = answered([*hello, TURN, *world, *more], conditions)
    assert "".join(delta.text for delta in deltas) == "hello"
    assert deltas[-1].finish_reason is FinishReason.STOP


@pytest.mark.parametrize(
    ("stop", "told"),
    [
        ("<|im_start|>", "one two"),  # a special token
        ("<|im_end|>", "one two three"),
        ("two<|im_start|> th", "one "),  # with text around it
        ("<|im_start|> three<|im_end|>", "one two"),
        ("two three", "one "),  # what the client sees, whatever stands between
        (" four", "one two three"),
        ("<|im", "one two"),  # a part of its text
        ("<|im_start|>three", "one two three four"),
    ],
)
def test_stop_when_it_spells_a_special_token_then_it_matches(stop: str, told: str) -> None:
    one, three, four = (LOADED[0].encode(text) for text in ("one two", " three", " four"))
    ids = [*one, TURN, *three, END, *four]
    deltas = answered(ids, StopConditions(max_tokens=len(ids), strings=(stop,), ignore_eos=True))
    assert "".join(delta.text for delta in deltas) == told
    ended = FinishReason.LENGTH if told == "one two three four" else FinishReason.STOP
    assert deltas[-1].finish_reason is ended


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.sampled_from(["a", "b", "<|im_start|>", "<|im_end|>", "🙂"]), min_size=1, max_size=20),
    stops=st.lists(
        st.lists(st.sampled_from(["a", "b", "<|im_start|>", "<", ">a"]), min_size=1, max_size=3).map("".join),
        max_size=3,
    ),
    cursors=st.booleans(),
)
def test_special_tokens_then_only_stop_strings_see_them(pieces: list[str], stops: list[str], *, cursors: bool) -> None:
    """The answer ends where the first stop begins, in the text with special tokens or without; none of it is told."""
    shown = [piece for piece in pieces if not piece.startswith("<")]
    ids = [token for piece in pieces for token in LOADED[0].encode(piece)]
    conditions = StopConditions(max_tokens=len(ids), strings=tuple(stops), ignore_eos=True)
    deltas = answered(ids, conditions, cursors=cursors)
    told = "".join(delta.text for delta in deltas)
    assert "".join(shown).startswith(told)
    assert not any(stop in told for stop in stops)
    if not any(stop in "".join(pieces) or stop in "".join(shown) for stop in stops):
        assert told == "".join(shown)
        assert deltas[-1].finish_reason is FinishReason.LENGTH
    else:
        assert deltas[-1].finish_reason is FinishReason.STOP


def test_special_tokens_when_only_they_come_then_none_is_held() -> None:
    answer = Answer(LOADED[0], StopConditions(max_tokens=10_000, strings=("stop",), ignore_eos=True))
    for _ in range(1000):
        answer.add(TURN, room=10_000)
    assert answer._held == ""
    assert not answer._boundaries


PIECES = ["a", "b", "ab b", "é", "🙂", "漢字", "<|im_start|>", "<|im_end|>"]
CUT = ["🙂", "漢", "é"]
"""Characters of several tokens, of which the first alone may come."""


@settings(max_examples=500, deadline=None)
@given(
    pieces=st.lists(st.sampled_from([*PIECES, *(f"{each}cut" for each in CUT)]), min_size=1, max_size=20),
    stops=st.lists(st.text(alphabet="ab🙂é漢<|im_start|>", min_size=1, max_size=6), max_size=3),
)
def test_cursor_then_the_text_so_far_is_that_of_its_tokens(pieces: list[str], stops: list[str]) -> None:
    """Joined up to a cursor, the deltas are what the tokens decode to; a stop string cuts the last one only.

    Without stop strings nothing but an incomplete character is held back.
    """
    ids = [
        token
        for piece in pieces
        for token in (LOADED[0].encode(piece[0])[:1] if piece.endswith("cut") else LOADED[0].encode(piece))
    ]
    told, before = "", 0
    conditions = StopConditions(max_tokens=len(ids), strings=tuple(stops), ignore_eos=True)
    deltas = answered(ids, conditions, cursors=True)
    for count, delta in enumerate(deltas, start=1):
        told += delta.text
        assert delta.cursor is not None
        assert before <= delta.cursor <= count
        before, text = delta.cursor, LOADED[0].decode(ids[: delta.cursor])
        assert told == text or (delta.finish_reason is FinishReason.STOP and text.startswith(told))
        if not stops and not LOADED[0].decode(ids[:count]).endswith("\ufffd"):
            assert delta.cursor == count
    assert before == len(deltas)


@pytest.mark.parametrize(
    ("cursors", "told"),
    [(False, [(" hel", None), ("lo world", None)]), (True, [("", 0), (" hello world", 2)])],
)
def test_stop_when_it_may_begin_in_a_token_then_it_is_held(
    told: list[tuple[str, int | None]], *, cursors: bool
) -> None:
    """The text before it is held too only where a cursor counts whole tokens."""
    hello, world = LOADED[0].encode(" hello"), LOADED[0].encode(" world")
    assert (len(hello), len(world)) == (1, 1)
    deltas = answered([*hello, *world], StopConditions(max_tokens=2, strings=("lot",)), cursors=cursors)
    assert [(delta.text, delta.cursor) for delta in deltas] == told
