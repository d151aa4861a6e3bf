"""The retry budget: a share of the traffic, so that retries do not double the load of a failing model."""

from __future__ import annotations

EARNED_PER_REQUEST = 0.2
RESERVE = 100.0
"""Largest burst: all requests of a lost replica may be retried."""
MAX_ATTEMPTS = 3
"""Connections that one request may lose: this bounds a request that crashes replicas. Attempts that never reached a
replica, or were rejected by it, do not count."""


class RetryBudget:
    """A token bucket of retries; every request adds a fifth of one."""

    def __init__(self) -> None:
        self._saved = RESERVE

    def earn(self) -> None:
        """Count a new request."""
        self._saved = min(RESERVE, self._saved + EARNED_PER_REQUEST)

    def spend(self) -> bool:
        """Return whether one more retry is allowed, and count it."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
