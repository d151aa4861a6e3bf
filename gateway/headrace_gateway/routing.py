"""Which replica takes a request: the revision by weight, then the least loaded of it. Pure.

Revisions take turns by the smooth weighted round-robin (nginx's): each gains its weight as credit, and the one with
the most credit is chosen and loses the sum of the weights. 90:10 gives one request in ten to the canary, evenly spread
and without randomness. A revision without a free replica, or without the operation or the adapter, is skipped: its
share goes to the others, so that no request waits while a replica is free.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from headrace.routes import RevisionWeight
from headrace_gateway.operations import RequestInfo
from headrace_gateway.replica import Replica

ONLY = "only-replica"
LEAST_LOADED = "least-loaded"
LAST_RESORT = "last-resort"
"""Every free replica is suspect; this one is tried anyway."""


class Choice(NamedTuple):
    """A replica, and the reason for the choice (the value of `x-headrace-decision`).

    A named tuple: one is made per request (see `headrace_gateway.operations.RequestInfo`).
    """

    replica: Replica
    reason: str


class RevisionTurns:
    """The smooth weighted round-robin over the revisions of a model."""

    def __init__(self) -> None:
        self._credit: dict[str, int] = {}

    def next(self, weights: Sequence[RevisionWeight]) -> str:
        """Return the next revision of those given (at least one)."""
        if len(weights) == 1:
            return weights[0].revision
        credit = {each.revision: self._credit.get(each.revision, 0) + each.weight_percent for each in weights}
        chosen = max(credit, key=lambda revision: credit[revision])
        credit[chosen] -= sum(each.weight_percent for each in weights)
        self._credit |= credit
        return chosen

    def keep_only(self, weights: Iterable[RevisionWeight]) -> None:
        """Forget revisions that have no weight any more."""
        named = {each.revision for each in weights}
        self._credit = {revision: credit for revision, credit in self._credit.items() if revision in named}


def choose(
    request: RequestInfo, replicas: Iterable[Replica], weights: Sequence[RevisionWeight], turns: RevisionTurns
) -> Choice | None:
    """Return the replica for a request; None if no eligible replica has capacity.

    Without weights every replica is eligible: the reconcile loop sets weights once a revision serves.
    """
    free = [replica for replica in replicas if replica.has_capacity]
    if weights and free:
        present = {replica.report.revision for replica in free}
        eligible = [
            each
            for each in weights
            if each.weight_percent > 0 and each.revision in present and each.serves(*request.needs)
        ]
        if not eligible:
            return None
        revision = turns.next(eligible)
        free = [replica for replica in free if replica.report.revision == revision]
    if not free:
        return None
    if len(free) == 1:
        replica, reason = free[0], ONLY
    else:
        replica, reason = min(free, key=lambda each: (each.suspect, each.load, each.last_used)), LEAST_LOADED
    return Choice(replica, LAST_RESORT if replica.suspect else reason)
