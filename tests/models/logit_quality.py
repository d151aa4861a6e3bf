"""How far logits are from the reference, and a fixed text to compute them for."""

from __future__ import annotations

import numpy as np

from headrace_models.decoder import Floats

TEXT = (
    "A reservoir above the town feeds the mill through a narrow channel. In spring the water is high, and the miller "
    "opens the second gate so that the wheel does not turn too fast. In the dry months he lets the pond fill overnight "
    "and grinds in the morning. His daughter keeps the accounts: who brought grain, how much flour went back, and what "
    "is still owed. Most neighbours pay with bread or with a day of work on the dam, which needs repair every year."
)


def rms(values: Floats) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))


def relative_error(ours: Floats, theirs: Floats) -> float:
    """Return the root mean square of the difference, over that of the values."""
    return rms(ours - theirs) / rms(theirs)


def perplexity(tokens: list[int], logits: Floats) -> float:
    """Return the perplexity of the tokens after the first; logits: [tokens, vocabulary]."""
    rows = logits[:-1].astype(np.float64)
    chosen = rows[np.arange(len(rows)), tokens[1:]]
    return float(np.exp(np.mean(np.logaddexp.reduce(rows, axis=1) - chosen)))
