"""Speculative decoding by prompt lookup: what followed the last tokens before is proposed to follow them again.

A step for a few tokens costs little more than for one, because it reads the weights once (the idea is Saxena's prompt
lookup decoding, 2023). Answers that repeat the prompt (edits, extraction, code) gain; others lose the rows that were
computed for rejected drafts. The more answers a step has, the less of it is the reading of weights, and the more drafts
must be accepted to pay: a request's drafts pause while fewer are.
"""

from __future__ import annotations

from collections.abc import Sequence

NGRAM = 3
"""Tokens that must be equal. With two, most matches of running text are accidental."""
MAX_DRAFTS = 5
MAX_ROWS = 16
"""Rows of a step up to which drafts are added: beyond, the step's time grows with each row."""
DRAFT_COST = 0.1
"""Least share of accepted drafts, per answer of the step. A draft pays if this share of the time per token exceeds the
time of a row: a tenth of it for 1 answer, 0.7 of 0.9 ms for 8 (SmolLM2-135M on two cores)."""
PAUSE_TOKENS = 64
"""Tokens after its last drafts, after which a paused request tries again."""
_SMOOTHING = 0.25
"""Weight of the newest drafts in a request's acceptance."""


class PromptLookup:
    """Proposes drafts for one sequence."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, ...], int] = {}
        """Where the newest occurrence of an n-gram ends, but for the one at the end of the tokens."""
        self._noted = NGRAM
        """All n-grams that end before this are in `_places`."""
        self._acceptance = 1.0
        self._next_trial = 0
        """Length at which drafts are tried whatever the acceptance."""

    def propose(self, tokens: Sequence[int], limit: int, answers: int) -> list[int]:
        """Return at most `limit` tokens that may follow, in a step that continues `answers` answers."""
        end = len(tokens)
        least = DRAFT_COST * answers
        if limit <= 0 or least >= 1 or (self._acceptance < least and end < self._next_trial):
            return []
        for place in range(self._noted, end):
            self._places[tuple(tokens[place - NGRAM : place])] = place
        self._noted = max(self._noted, end)
        place = self._places.get(tuple(tokens[-NGRAM:]), end)
        return list(tokens[place : place + min(limit, MAX_DRAFTS)])

    def verified(self, drafted: int, accepted: int, length: int) -> None:
        """Note how many drafts were accepted; `length` is that of the sequence."""
        self._acceptance += _SMOOTHING * (accepted / drafted - self._acceptance)
        self._next_trial = length + PAUSE_TOKENS
