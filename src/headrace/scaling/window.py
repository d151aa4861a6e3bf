"""Averages over the last seconds, in buckets of one second, as Knative's autoscaler keeps them."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bucket:
    """One second of the monotonic clock, at its peak.

    The peak, where Knative takes the mean: looks are driven by events here, and how often somebody looked within a
    second must not change what it weighs. Looking twice decides the same.
    """

    second: int
    peak: float


@dataclass(frozen=True, slots=True)
class Window:
    """The buckets, newest last; frozen, so that rules stay pure. Bounded by the seconds that are kept."""

    buckets: tuple[Bucket, ...] = ()

    def with_sample(self, now: float, value: float, *, keep_seconds: int) -> Window:
        """Return the window with a sample added and what is older than `keep_seconds` dropped."""
        second = math.floor(now)
        kept = [bucket for bucket in self.buckets if bucket.second > second - keep_seconds]
        if kept and kept[-1].second == second:
            value = max(value, kept.pop().peak)
        kept.append(Bucket(second, value))
        return Window(tuple(kept))

    def average(self, now: float, seconds: int) -> float:
        """Return the mean of the sampled seconds' peaks among the last `seconds`; 0.0 without any.

        Seconds without a sample are left out rather than counted as zero: nobody looks while nothing happens, and a
        burst after a long rest must count in full.
        """
        oldest = math.floor(now) - seconds
        peaks = [bucket.peak for bucket in self.buckets if bucket.second > oldest]
        return sum(peaks) / len(peaks) if peaks else 0.0
