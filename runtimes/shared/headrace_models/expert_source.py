"""Where a decoder gets its experts if they are not part of its weights: an expert cache, for example."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headrace_models.native.library import NativeExpert

ExpertGroup = Sequence[NativeExpert]
LookAhead = Callable[[int], NDArray[np.float32]]
"""Returns the scores of a later layer's gate for the present hidden states: [tokens, experts]."""


@dataclass(frozen=True, slots=True)
class Routing:
    """What the gate of a layer chose. The arrays are valid until the layer is done."""

    layer: int
    experts: NDArray[np.int32]
    """[tokens, used], by falling score."""
    weights: NDArray[np.float32]
    """[tokens, used]"""


class ExpertSource(Protocol):
    """Gives a decoder the experts of each layer."""

    def groups(self, routing: Routing, look_ahead: LookAhead) -> Iterator[ExpertGroup]:
        """Yield all experts that were chosen, each once; a group stays valid until the next one is asked for.

        The result does not depend on the order or on the groups.
        """

    def counters(self) -> Mapping[str, int]:
        """Return counters since the start, by the names of their metrics."""

    def close(self) -> None:
        """Free what it has."""
