"""Tokens are those of transformers' own reading of the file; streamed text is the whole text."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_runtime.llm_reference import PROMPTS
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from headrace.serving.engine import Chat, ChatMessage
from headrace_models.model_file import ModelFile
from headrace_models.tokenizer import ModelTokenizer

TEXTS = (*PROMPTS, "<|im_start|>user\nhi<|im_end|>", "0123 4567", "  spaces   and\ttabs ", "e\u0301 é", "👩‍👩‍👧‍👦")


@pytest.fixture(scope="module")
def ours(smollm2_path: Path) -> ModelTokenizer:
    return ModelTokenizer(ModelFile.open(smollm2_path))


@pytest.fixture(scope="module")
def theirs(smollm2_path: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(str(smollm2_path.parent), gguf_file=smollm2_path.name)


@pytest.mark.parametrize("text", TEXTS)
def test_text_when_encoded_then_the_ids_are_transformers(
    ours: ModelTokenizer, theirs: PreTrainedTokenizerBase, text: str
) -> None:
    assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]


def test_conversation_then_its_ids_equal_transformers(ours: ModelTokenizer, theirs: PreTrainedTokenizerBase) -> None:
    turns = [
        {"role": "user", "content": "Hi!"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Why?"},
    ]
    expected = theirs.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert ours.encode_chat(Chat(tuple(ChatMessage(turn["role"], turn["content"]) for turn in turns))) == expected


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 49151), max_size=40))
def test_stream_when_pieces_are_joined_then_the_whole_text(ids: list[int]) -> None:
    """Whatever tokens come, the pieces are together what decoding all of them gives."""
    tokenizer = _tokenizer()
    stream = tokenizer.stream()
    assert "".join(stream.step(token) for token in ids) + stream.finish() == tokenizer.decode(ids)


_LOADED: list[ModelTokenizer] = []


def _tokenizer() -> ModelTokenizer:
    return _LOADED[0]


@pytest.fixture(autouse=True, scope="module")
def _load(ours: ModelTokenizer) -> None:
    _LOADED.append(ours)  # hypothesis runs a test many times, and takes no fixtures of a module gladly


def test_long_text_when_encoded_then_other_threads_go_on(ours: ModelTokenizer) -> None:
    """A replica's event loop is such a thread: with `Tokenizer.encode` it stands still for the whole time."""
    encoding = threading.Thread(target=ours.encode, args=("hello world " * 100_000,))
    encoding.start()
    began = last = time.monotonic()
    longest = 0.0
    while encoding.is_alive():
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    assert longest < (last - began) / 2


def test_token_then_it_has_at_most_the_longest_tokens_bytes(ours: ModelTokenizer) -> None:
    for text in ("#" * 500, " " * 500, "🙂" * 100, *TEXTS):
        assert len(text.encode()) <= len(ours.encode(text)) * ours.longest_token
