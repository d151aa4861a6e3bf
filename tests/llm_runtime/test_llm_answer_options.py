"""Options of the text of an answer: stop strings included, special tokens, least length, log probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.serving.engine import Delta, FinishReason, StopConditions, TokenLogprob
from headrace_llm.answer import Answer
from headrace_models.model_file import ModelFile
from headrace_models.tokenizer import ModelTokenizer

LOADED: list[ModelTokenizer] = []
"""Hypothesis runs a test many times and takes no fixtures."""
TURN, END = 1, 2
"""<|im_start|> and <|im_end|>, which ends an answer."""


@pytest.fixture(autouse=True, scope="module")
def _tokenizer(smollm2_path: Path) -> Iterator[None]:
    LOADED.append(ModelTokenizer(ModelFile.open(smollm2_path)))
    yield
    LOADED.clear()


def answered(
    ids: list[int], conditions: StopConditions, *, cursors: bool = False, special: bool = False
) -> list[Delta]:
    """Feed tokens until the answer ends, or all of them."""
    answer, deltas = Answer(LOADED[0], conditions, cursors=cursors, special_tokens=special), []
    for token in ids:
        deltas.append(answer.add(token, room=10_000))
        if deltas[-1].finish_reason is not None:
            break
    return deltas


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(alphabet="ab🙂 é", min_size=1, max_size=30),
    stops=st.lists(st.text(alphabet="ab🙂 é", min_size=1, max_size=4), max_size=3),
    least=st.integers(0, 10),
    cursors=st.booleans(),
)
def test_stop_when_included_then_the_text_goes_on_to_its_end(
    text: str, stops: list[str], least: int, *, cursors: bool
) -> None:
    """With and without `include_string`, an answer ends at the same token, and the texts differ by one stop string."""
    ids = LOADED[0].encode(text)
    conditions = StopConditions(max_tokens=len(ids), strings=tuple(stops), min_tokens=least)
    without = answered(ids, conditions, cursors=cursors)
    included = answered(ids, replace(conditions, include_string=True), cursors=cursors)
    assert len(without) == len(included)
    assert [delta.cursor for delta in without] == [delta.cursor for delta in included]
    if without[-1].finish_reason is FinishReason.STOP:
        assert text_of(included) in {text_of(without) + stop for stop in stops}
        assert text.startswith(text_of(included))
    else:
        assert text_of(without) == text_of(included) == text


def test_stop_when_of_special_tokens_and_included_then_text_only() -> None:
    ids = [*LOADED[0].encode("one"), TURN, *LOADED[0].encode(" two three")]
    conditions = StopConditions(max_tokens=99, strings=("<|im_start|> two",), include_string=True)
    assert text_of(answered(ids, conditions)) == "one two"
    assert text_of(answered(ids, conditions, special=True)) == "one<|im_start|> two"


@pytest.mark.parametrize(("least", "ended"), [(0, 3), (2, 3), (3, 5), (4, 5), (5, 7)])
def test_ends_when_within_min_tokens_then_ignored(least: int, ended: int) -> None:
    """The stop string is one token: the 3rd, 5th or 7th; one within the first `min_tokens` ends nothing."""
    ids = LOADED[0].encode("one two stop two stop two stop")
    assert len(ids) == 7
    deltas = answered(ids, StopConditions(max_tokens=99, strings=(" stop",), min_tokens=least))
    assert len(deltas) == ended
    assert text_of(deltas) == LOADED[0].decode(ids[: len(deltas) - 1])


@pytest.mark.parametrize("end", [END, TURN])
def test_end_tokens_when_within_min_tokens_then_ignored(end: int) -> None:
    one = LOADED[0].encode("one")
    conditions = StopConditions(max_tokens=99, token_ids=frozenset({TURN}), min_tokens=2)
    assert Answer(LOADED[0], conditions).ends >= {END, TURN}
    deltas = answered([*one, end, *one, end], conditions)
    assert len(deltas) == 4
    assert text_of(deltas) == "oneone"


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.lists(st.sampled_from(["a", "b", "<|im_start|>", "🙂"]), min_size=1, max_size=20),
    cursors=st.booleans(),
)
def test_special_tokens_when_requested_then_text(pieces: list[str], *, cursors: bool) -> None:
    """They are spelled out, and a cursor counts the tokens of exactly the text so far; the end token is no text."""
    ids = [token for piece in pieces for token in LOADED[0].encode(piece)]
    deltas = answered([*ids, END], StopConditions(max_tokens=99), cursors=cursors, special=True)
    assert text_of(deltas) == "".join(pieces)
    if cursors:
        text, spelled = "", [LOADED[0].special.get(token) or LOADED[0].decode([token]) for token in ids]
        for delta in deltas[:-1]:
            text += delta.text
            assert delta.cursor is not None
            so_far = "".join(spelled[: delta.cursor])
            assert text == so_far or "\ufffd" in so_far


def test_logprobs_then_beside_their_tokens_and_prompts_once() -> None:
    ids = LOADED[0].encode("one two three")
    answer = Answer(LOADED[0], StopConditions(max_tokens=len(ids), strings=("two three four",)))
    answer.prompt_logprobs, answer.cached_tokens = (None, TokenLogprob(7, -1.0)), 5
    scores = [TokenLogprob(token, -0.5) for token in ids]
    deltas = [answer.add(token, room=9, logprob=score) for token, score in zip(ids, scores, strict=True)]
    assert [delta.logprobs for delta in deltas] == [(score,) for score in scores]
    assert [delta.token_ids for delta in deltas] == [(score.token,) for score in scores]
    assert [delta.prompt_logprobs for delta in deltas] == [(None, TokenLogprob(7, -1.0)), (), ()]
    assert [delta.cached_tokens for delta in deltas] == [5, 0, 0]


@pytest.mark.parametrize("cursors", [False, True])
def test_answer_when_its_constraint_is_complete_then_it_ends(*, cursors: bool) -> None:
    ids = LOADED[0].encode("one two")
    answer = Answer(LOADED[0], StopConditions(max_tokens=9, strings=("two three",)), cursors=cursors)
    deltas = [answer.add(token, room=9, complete=i == len(ids) - 1) for i, token in enumerate(ids)]
    assert text_of(deltas) == "one two"
    assert [delta.finish_reason for delta in deltas] == [None] * (len(ids) - 1) + [FinishReason.STOP]
