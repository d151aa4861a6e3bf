"""Tokenizers of the families: the ids are SentencePiece's and transformers' own; streamed text is the whole text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from models.model_files import BYTES, GGUFModel, rows
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, Qwen2Tokenizer

from headrace_models.model_file import ModelFile
from headrace_models.tokenizer import ModelTokenizer

CORPUS = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
TEXTS = (
    "The gateway routes a request to a replica.",
    "  two  spaces   and\ttabs\n\n\nlines ",
    "It's 12345 of 67, we'll SEE; don't 3.14",
    "e\u0301 é ß 漢字 👩‍👩‍👧‍👦 \ufffd",
    "x" * 50,
    "",
)
UNKNOWN, CONTROL, BYTE = 2, 3, 6


def sentencepiece_file(
    path: Path, *, space_prefix: bool
) -> tuple[ModelTokenizer, sentencepiece.SentencePieceProcessor]:
    """Return our tokenizer from a GGUF of SentencePiece's pieces, and SentencePiece itself."""
    (path / "corpus.txt").write_text(CORPUS)
    sentencepiece.SentencePieceTrainer.train(
        input=str(path / "corpus.txt"),
        model_prefix=str(path / "spm"),
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=space_prefix,
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path / "spm.model"))
    pieces = range(theirs.get_piece_size())
    kinds = [
        UNKNOWN if theirs.is_unknown(i) else CONTROL if theirs.is_control(i) else BYTE if theirs.is_byte(i) else 1
        for i in pieces
    ]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [theirs.id_to_piece(i) for i in pieces],
        "tokenizer.ggml.scores": [theirs.get_score(i) for i in pieces],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.bos_token_id": theirs.bos_id(),
        "tokenizer.ggml.eos_token_id": theirs.eos_id(),
        "tokenizer.ggml.unknown_token_id": theirs.unk_id(),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": space_prefix,
        "llama.vocab_size": len(kinds),
    }
    file = GGUFModel(metadata, {"token_embd.weight": rows(len(kinds))}).write(path / "model.gguf")
    return ModelTokenizer(ModelFile.open(file)), theirs


@pytest.fixture(scope="module", params=[True, False], ids=["space-prefix", "no-prefix"])
def pieces(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return sentencepiece_file(tmp_path_factory.mktemp("spm"), space_prefix=request.param)


@pytest.mark.parametrize("text", [*TEXTS, *(line for line in CORPUS.splitlines() if line)])
def test_pieces_when_encoded_then_sentencepiece_s_ids(pieces: Any, text: str) -> None:
    ours, theirs = pieces
    assert ours.encode(text) == theirs.encode(text)
    assert ours.decode(ours.encode(text)) == text


def test_pieces_when_streamed_then_the_whole_text(pieces: Any) -> None:
    """The parts are together the text, wherever its tokens cut characters; pieces have no other space than U+2581."""
    ours, _ = pieces

    @settings(max_examples=200, deadline=None)
    @given(text=st.text(st.characters(codec="utf-8", exclude_characters="\N{LOWER ONE EIGHTH BLOCK}"), max_size=40))
    def check(text: str) -> None:
        stream = ours.stream()
        assert "".join(stream.step(token) for token in ours.encode(text)) + stream.finish() == text

    check()


@pytest.mark.parametrize("pre", ["qwen2", "llama-bpe"])
def test_byte_pairs_when_encoded_then_transformers_ids(tmp_path: Path, pre: str) -> None:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.train_from_iterator(
        [CORPUS, "111 222 333 12 34 56 78 90 100 1000 12345"],
        trainers.BpeTrainer(vocab_size=900, initial_alphabet=BYTES, show_progress=False),
    )
    tokens = [*sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__), "<|endoftext|>"]
    path = GGUFModel(
        {
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.merges": [" ".join(pair) for pair in _merges(trained)],
            "tokenizer.ggml.token_type": [1] * (len(tokens) - 1) + [3],
            "tokenizer.ggml.bos_token_id": None,
            "tokenizer.ggml.eos_token_id": len(tokens) - 1,
            "llama.vocab_size": len(tokens),
        },
        {"token_embd.weight": rows(len(tokens))},
    ).write(tmp_path / "model.gguf")
    ours = ModelTokenizer(ModelFile.open(path))
    theirs = _reference(path, pre, tokens, _merges(trained))
    for text in (*TEXTS, CORPUS, "a<|endoftext|>b"):
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True)


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def _reference(path: Path, pre: str, tokens: list[str], merges: Any) -> Any:
    """Return transformers' tokenizer of Qwen2, which also normalises text, or its reading of a Llama 3 file."""
    if pre == "qwen2":
        return Qwen2Tokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
