"""Speculative decoding by prompt lookup: what followed the last tokens before is proposed to follow them again.

A step for a few tokens costs little more than for one, because it reads the weights once (the idea is Saxena's prompt
lookup decoding, 2023). Answers that repeat the prompt (edits, extraction, code) gain; others lose the rows that were
computed for rejected drafts, so drafts are paused where few are accepted, and given up in large batches.
"""

from __future__ import annotations

from collections.abc import Sequence

NGRAM = 3
"""Tokens that must be equal. With two, most matches of running text are accidental."""
MAX_DRAFTS = 5
MAX_ROWS = 16
"""Rows of a step up to which drafts are added: beyond, the step's time grows with each row."""
LEAST_ACCEPTANCE = 0.3
"""Share of accepted drafts below which a request pauses. A draft costs about a tenth of a step."""
PAUSE_TOKENS = 64
"""Tokens after which a paused request tries again."""
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
        self._paused_until = 0

    def propose(self, tokens: Sequence[int], limit: int) -> list[int]:
        """Return at most `limit` tokens that may follow."""
        end = len(tokens)
        if end < self._paused_until or limit <= 0:
            return []
        for place in range(self._noted, end):
            self._places[tuple(tokens[place - NGRAM : place])] = place
        self._noted = max(self._noted, end)
        place = self._places.get(tuple(tokens[-NGRAM:]), end)
        return list(tokens[place : place + min(limit, MAX_DRAFTS)])

    def verified(self, drafted: int, accepted: int, length: int) -> None:
        """Note how many drafts were accepted; `length` is that of the sequence."""
        self._acceptance += _SMOOTHING * (accepted / drafted - self._acceptance)
        if self._acceptance < LEAST_ACCEPTANCE:
            self._paused_until = length + PAUSE_TOKENS
            self._acceptance = LEAST_ACCEPTANCE * 1.5
