"""When prompt lookup proposes drafts: by the share of accepted ones and the number of answers in the step."""

from __future__ import annotations

import pytest

from headrace_llm.speculation import MAX_DRAFTS, PAUSE_TOKENS, PromptLookup

REPEATING = list(range(20)) * 10
LIMIT = 16


def after(*accepted: int) -> PromptLookup:
    """A lookup after drafts of which these numbers were accepted, the last ones at the end of the tokens."""
    lookup = PromptLookup()
    for count in accepted:
        lookup.verified(MAX_DRAFTS, count, len(REPEATING))
    return lookup


@pytest.mark.parametrize(
    ("accepted", "most_answers"),
    [((), 9), ((5, 5), 9), ((4,) * 10, 8), ((1,) * 10, 2), ((0,) * 10, 0)],
    ids=["new", "all", "four of five", "one of five", "none"],
)
def test_drafts_when_more_answers_then_more_must_be_accepted(accepted: tuple[int, ...], most_answers: int) -> None:
    proposing = [n for n in range(1, LIMIT) if after(*accepted).propose(REPEATING, LIMIT, n)]
    assert proposing == list(range(1, most_answers + 1))


def test_drafts_when_paused_then_tried_again_later() -> None:
    lookup = after(*(0,) * 10)
    assert lookup.propose(REPEATING + REPEATING[: PAUSE_TOKENS - 1], LIMIT, 1) == []
    tokens = REPEATING + (REPEATING * 2)[:PAUSE_TOKENS]
    assert lookup.propose(tokens, LIMIT, 1) == [(tokens[-1] + each) % 20 for each in range(1, MAX_DRAFTS + 1)]


def test_drafts_when_paused_among_many_then_resume_alone() -> None:
    lookup = after(*(3,) * 10)
    assert lookup.propose(REPEATING, LIMIT, 8) == []
    assert len(lookup.propose(REPEATING, LIMIT, 1)) == MAX_DRAFTS
