"""How often requests may be tried again: a share of the traffic, so that a broken model is not asked twice as much."""

from __future__ import annotations

EARNED_PER_REQUEST = 0.2
RESERVE = 100.0
"""What may be spent at once: all requests of a lost replica find another one."""
MAX_ATTEMPTS = 3
"""Connections that one request may lose: one that kills its replica stops here. What never reached a replica, or was
turned away by it, harmed nobody and does not count."""


class RetryBudget:
    """A bucket of retries; every request adds a fifth of one."""

    def __init__(self) -> None:
        self._saved = RESERVE

    def earn(self) -> None:
        """A request came."""
        self._saved = min(RESERVE, self._saved + EARNED_PER_REQUEST)

    def spend(self) -> bool:
        """Return whether one more retry is allowed, and count it."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
