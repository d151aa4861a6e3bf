"""Tokenizers of the `tokenizers` library from vocabularies; they give the ids of transformers' own.

The patterns that split text are those of the models' tokenizer.json files: they are part of the models.
"""

from __future__ import annotations

from typing import assert_never

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import PreTokenizer, Split

from headrace_models.vocabulary import BytePairs, Pieces, TokenizerJSON, Vocabulary

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 and Llama 3 split text; they differ in the number of digits."""
_SPACE = "\u2581"
"""SentencePiece's space."""


def library_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Return the tokenizer; special and user-defined tokens are recognised in text.

    Raises Exception (the library has no narrower type) if the vocabulary is broken.
    """
    match vocabulary.encoding:
        case TokenizerJSON(text):
            return _from_json(text, vocabulary)
        case BytePairs() as pairs:
            tokenizer = _byte_pairs(vocabulary.tokens, pairs)
        case Pieces() as pieces:
            tokenizer = _pieces(vocabulary.tokens, pieces)
        case other:
            assert_never(other)
    tokens, special = vocabulary.tokens, vocabulary.special
    whole = sorted(special.keys() | vocabulary.user_defined)
    tokenizer.add_tokens([AddedToken(tokens[i], special=i in special, normalized=False) for i in whole])
    return tokenizer


def _from_json(text: str, vocabulary: Vocabulary) -> Tokenizer:
    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ends = [vocabulary.tokens[i] for i in sorted(vocabulary.ends)]
    tokenizer.add_special_tokens([AddedToken(end, special=True, normalized=False) for end in ends])
    return tokenizer


def _byte_pairs(tokens: list[str], pairs: BytePairs) -> Tokenizer:
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in pairs.merges)]
    llama3 = pairs.pre == "llama-bpe"  # whole words of the vocabulary are tokens without merging
    tokenizer = Tokenizer(BPE(vocab=_ids(tokens), merges=merges, ignore_merges=llama3))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_steps(pairs.pre))
    tokenizer.decoder = decoders.ByteLevel()
    if pairs.pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def _steps(pre: str) -> list[PreTokenizer]:
    """Return how text is split before merging."""
    if pre == "smollm":
        return [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if pre == "gpt-2":
        return [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    pattern = Regex(_PATTERN % ("{1,3}" if pre == "llama-bpe" else ""))
    return [Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


def _pieces(tokens: list[str], pieces: Pieces) -> Tokenizer:
    tokenizer = Tokenizer(
        BPE(
            vocab=_ids(tokens),
            merges=_merges(pieces),
            unk_token=pieces.unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if pieces.space_prefix else spaces
    )
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if pieces.space_prefix else steps)
    return tokenizer


def _merges(pieces: Pieces) -> list[tuple[str, str]]:
    """Return all pairs that make a piece, best piece first: SentencePiece knows scores only, the library pairs."""
    scores = pieces.scores
    found = [
        (score, piece[:cut], piece[cut:])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    found.sort(key=lambda each: (each[0], len(each[1]), len(each[2])), reverse=True)
    return [(left, right) for _, left, right in found]


def _ids(tokens: list[str]) -> dict[str, int]:
    return {token: i for i, token in enumerate(tokens)}
