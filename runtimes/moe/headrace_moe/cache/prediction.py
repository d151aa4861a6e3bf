"""Which experts the next layer will need, by its own gate on the hidden states of this layer (mixtral-offloading).

A hint only: what is predicted wrongly costs a transfer, never a result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from headrace_models.expert_source import LookAhead, Routing

Predictor = Callable[[Routing, LookAhead], Sequence[int]]
"""Returns the experts that the next layer may need, likeliest first."""
MAX_TOKENS = 32
"""Above, a layer needs almost all experts, and a prediction is not worth its time."""


def gate_look_ahead(routing: Routing, look_ahead: LookAhead) -> list[int]:
    """Return the experts that the next layer's gate would choose now."""
    tokens, used = routing.experts.shape
    return likely_experts(look_ahead(routing.layer + 1), used) if tokens <= MAX_TOKENS else []


def likely_experts(scores: NDArray[np.float32], used: int) -> list[int]:
    """Return the experts among the `used` highest of any token: by the number of such tokens, then by score.

    scores: [tokens, experts].
    """
    top = np.argpartition(-scores, used - 1, axis=1)[:, :used]
    found, counts = np.unique(top, return_counts=True)
    best = scores.max(axis=0)
    return [int(found[i]) for i in np.lexsort((found, -best[found], -counts))]
