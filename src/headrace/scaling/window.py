"""Averages over the last seconds, in buckets of one second, as Knative's autoscaler keeps them."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """What was measured, newest last: `(second, sum of samples, count of samples)`; frozen, so that rules stay pure."""

    buckets: tuple[tuple[int, float, int], ...] = ()

    def with_sample(self, now: float, value: float, *, keep_seconds: int) -> Window:
        """Return the window with a sample added and what is older than `keep_seconds` dropped."""
        second = math.floor(now)
        kept = [bucket for bucket in self.buckets if bucket[0] > second - keep_seconds]
        if kept and kept[-1][0] == second:
            _, total, count = kept.pop()
            kept.append((second, total + value, count + 1))
        else:
            kept.append((second, value, 1))
        return Window(tuple(kept))

    def average(self, now: float, seconds: int) -> float | None:
        """Return the mean of the per-second means of the last `seconds`, or None without any sample in them."""
        oldest = math.floor(now) - seconds
        means = [total / count for second, total, count in self.buckets if second > oldest]
        return sum(means) / len(means) if means else None
