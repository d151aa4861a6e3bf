"""Averages over the last seconds, in buckets of one second, like those of Knative's autoscaler."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bucket:
    """Peak value of one second of the monotonic clock.

    Knative takes the mean of a second. Here events cause the samples, and the number of samples within a second must
    not change its weight: deciding twice gives the same result.
    """

    second: int
    peak: float


@dataclass(frozen=True, slots=True)
class Window:
    """The buckets, newest last; frozen, so that rules are pure. Bounded by the seconds that are kept."""

    buckets: tuple[Bucket, ...] = ()

    def with_sample(self, now: float, value: float, *, keep_seconds: int) -> Window:
        """Return the window with a sample added and without buckets older than `keep_seconds`."""
        second = math.floor(now)
        kept = [bucket for bucket in self.buckets if bucket.second > second - keep_seconds]
        if kept and kept[-1].second == second:
            value = max(value, kept.pop().peak)
        kept.append(Bucket(second, value))
        return Window(tuple(kept))

    def average(self, now: float, seconds: int) -> float:
        """Return the mean of the buckets of the last `seconds`; 0.0 without any.

        Seconds without a sample do not count as zero: without events there are no samples, and a burst after an idle
        period must count in full.
        """
        oldest = math.floor(now) - seconds
        peaks = [bucket.peak for bucket in self.buckets if bucket.second > oldest]
        return sum(peaks) / len(peaks) if peaks else 0.0
