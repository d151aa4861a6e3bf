"""From tokens to text: stop strings never leak, nothing else is lost, characters are whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.serving.engine import Delta, FinishReason, Sampling
from headrace_llm.answer import Answer
from headrace_llm.gguf import GGUFFile
from headrace_llm.tokenizer import ModelTokenizer

LOADED: list[ModelTokenizer] = []
"""Hypothesis runs a test many times, and takes no fixtures gladly."""


@pytest.fixture(autouse=True, scope="module")
def _tokenizer(smollm2_path: Path) -> Iterator[None]:
    LOADED.append(ModelTokenizer(GGUFFile(smollm2_path)))
    yield
    LOADED.clear()


def answered(ids: list[int], sampling: Sampling) -> list[Delta]:
    """Feed tokens until the answer ends, or all of them."""
    answer, deltas = Answer(LOADED[0], sampling), []
    for token in ids:
        deltas.append(answer.add(token, room=10_000))
        if deltas[-1].finish_reason is not None:
            break
    return deltas


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(alphabet="ab🙂 é", min_size=1, max_size=30),
    stops=st.lists(st.text(alphabet="ab🙂 é", min_size=1, max_size=4), max_size=3),
)
def test_text_when_it_meets_a_stop_then_it_ends_just_before_it(text: str, stops: list[str]) -> None:
    """Joined, the deltas are the text up to a stop string, or all of it; and no piece of a stop was told before."""
    ids = LOADED[0].encode(text)
    deltas = answered(ids, Sampling(max_tokens=len(ids), stop=tuple(stops)))
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
    deltas = answered(ids, Sampling(max_tokens=100))
    assert [delta.text for delta in deltas] == [""] * (len(ids) - 1) + ["🙂"]


def test_answer_when_the_end_token_comes_then_what_was_held_back_is_told() -> None:
    ids = [*LOADED[0].encode("one two"), LOADED[0].eos]
    deltas = answered(ids, Sampling(max_tokens=100, stop=("two three",)))
    assert "".join(delta.text for delta in deltas) == "one two"
    assert deltas[-1].finish_reason is FinishReason.STOP


def test_answer_when_the_end_token_is_ignored_then_it_goes_on_without_its_text() -> None:
    ids = [LOADED[0].eos, *LOADED[0].encode("more")]
    deltas = answered(ids, Sampling(max_tokens=len(ids), ignore_eos=True))
    assert "".join(delta.text for delta in deltas) == "more"
    assert deltas[-1].finish_reason is FinishReason.LENGTH
