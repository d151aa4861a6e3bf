"""Constraints over a vocabulary of SentencePiece with bytes as a fallback, whose tokens are not byte-level BPE's."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from headrace.serving.engine import Constraint, ConstraintKind
from headrace_llm.sampling.constraints import ConstraintCompiler

SPACE = "\u2581"
SPECIAL = ["<unk>", "<s>", "</s>"]
PIECES = [SPACE, *'{}[]":,abcdefghijklmnopqrstuvwxyz0123456789-.\\/', "ab", '{"', f"{SPACE}a"]
TOKENS = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
END = 2
SCHEMA = {
    "type": "object",
    "properties": {"ab": {"enum": ["é 🙂 x", "ab"]}, "n": {"type": "integer"}},
    "required": ["ab", "n"],
    "additionalProperties": False,
}


class Pieces:
    """What the compiler uses of a tokenizer."""

    vocabulary = len(TOKENS)
    ends = frozenset({END})

    def __init__(self) -> None:
        ids = {token: i for i, token in enumerate(TOKENS)}
        merges = [("a", "b"), ("{", '"'), (SPACE, "a")]
        self.library = Tokenizer(BPE(vocab=ids, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        self.library.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
        steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        self.library.decoder = decoders.Sequence(steps)
        self.library.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])

    def definition(self) -> str:
        return str(self.library.to_str())


@pytest.mark.parametrize("seed", range(6))
def test_answer_when_of_pieces_and_bytes_then_valid(seed: int) -> None:
    pieces: Any = Pieces()
    constraint = Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(SCHEMA), "response_format")
    matcher, random, ids = (
        ConstraintCompiler(pieces).compile(constraint).result(),
        np.random.default_rng(seed),
        list[int](),
    )
    while not matcher.complete and len(ids) < 200:
        allowed = np.flatnonzero(np.unpackbits(matcher.allowed().view(np.uint8), bitorder="little"))
        ids.append(int(random.choice(allowed)))
        matcher.advance(ids[-1])
    jsonschema.validate(json.loads(pieces.library.decode(ids)), SCHEMA)
