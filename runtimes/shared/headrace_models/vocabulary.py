"""The tokens of a model: their texts, the meaning of special tokens, and how text becomes tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

END_TEXTS = frozenset(
    {
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end|>",
        "<end_of_turn>",
        "<end_of_utterance>",
        "<EOT>",
        "_<EOT>",
    }
)
"""Tokens that end an answer even if the file does not name them. llama.cpp's list without gpt-oss's, whose <|end|>
ends only a part of the answer: that model is of another architecture."""


@dataclass(frozen=True, slots=True)
class BytePairs:
    """Byte-level BPE: the characters of tokens stand for bytes."""

    merges: list[str]
    """Pairs of tokens, with a space between, in the order in which they are merged."""
    pre: str
    """How text is split before merging: one of `gguf_vocabulary.PRE_TOKENIZERS`."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """SentencePiece's BPE: neighbours that make the piece of the highest score are merged; unknown text is bytes."""

    scores: Mapping[str, float]
    """Pieces that can be merged or made by merging."""
    space_prefix: bool
    """Whether a text begins with a space."""
    unknown: str | None


@dataclass(frozen=True, slots=True)
class TokenizerJSON:
    """A tokenizer.json: all of it is the library's."""

    text: str


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A model's tokens, checked: each id in it is a token's."""

    tokens: list[str]
    encoding: BytePairs | Pieces | TokenizerJSON
    special: Mapping[int, str]
    """Tokens whose text is not part of an answer: control tokens, and those that end it."""
    user_defined: frozenset[int]
    """Tokens of text that are matched as a whole."""
    ends: frozenset[int]
    """Tokens that end an answer."""
    prefix: tuple[int, ...]
    """Tokens that each text begins with."""
    names: Mapping[str, str]
    """Special tokens by their names in chat templates, for example `bos_token`."""
