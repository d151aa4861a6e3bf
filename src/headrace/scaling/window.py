"""Averages over the last seconds, in buckets of one second, as Knative's autoscaler keeps them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Bucket:
    """What was measured in one second of the monotonic clock."""

    second: int
    total: float
    count: int

    @property
    def mean(self) -> float:
        """The second's value, however often it was sampled: a burst of looks weighs no more than a single one."""
        return self.total / self.count


@dataclass(frozen=True, slots=True)
class Window:
    """The buckets, newest last; frozen, so that rules stay pure. Bounded by the seconds that are kept."""

    buckets: tuple[Bucket, ...] = ()

    def with_sample(self, now: float, value: float, *, keep_seconds: int) -> Window:
        """Return the window with a sample added and what is older than `keep_seconds` dropped."""
        second = math.floor(now)
        kept = [bucket for bucket in self.buckets if bucket.second > second - keep_seconds]
        if kept and kept[-1].second == second:
            last = kept.pop()
            kept.append(replace(last, total=last.total + value, count=last.count + 1))
        else:
            kept.append(Bucket(second, value, 1))
        return Window(tuple(kept))

    def average(self, now: float, seconds: int) -> float:
        """Return the mean of the sampled seconds among the last `seconds`; 0.0 without any.

        Seconds without a sample are left out rather than counted as zero: nobody looks while nothing happens, and a
        burst after a long rest must count in full.
        """
        oldest = math.floor(now) - seconds
        means = [bucket.mean for bucket in self.buckets if bucket.second > oldest]
        return sum(means) / len(means) if means else 0.0
