"""What a namespace may cost with replicas that it reports and that have not proven their address.

Whoever has a namespace's NATS login may report any number of replicas at any addresses. Until one is proven it reserves
nothing; what it costs is an entry in the table and a probe, and both are bounded for each namespace by itself. So such
reports delay nobody but their own namespace.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from headrace.events.messages import ReplicaReport, ReplicaState
from headrace_gateway.table import Table

log = logging.getLogger(__name__)

MAX_REPLICAS = 1000
"""Of one namespace, far above what one has."""
MAX_UNPROVEN = 16
"""Of one namespace: as many may start in the same moment. One more waits for its next report, a second later."""
PROBES_AT_ONCE = 8
"""Of one namespace's unproven replicas. A proof takes a millisecond, an address where nothing answers two seconds."""
FAILURES_SAVED = 16.0
FAILURES_PER_SECOND = 4.0
"""Of one namespace's unproven replicas: probes that may fail at once, and from then on. At each of them somebody is
asked who has nothing to do with it."""
MAX_TOLD = 64
"""Lines in the log about one namespace's reports: whoever may invent reports fills no disk with them."""
TELL_AGAIN_SECONDS = 600.0
"""After that the lines of a namespace are written again: what is still ignored must be found in a log of today."""


class Claims:
    """The bounds of every namespace."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._budgets: dict[str, ProbeBudget] = {}  # bounded by the namespaces that NATS lets in
        self._told: dict[str, Told] = {}
        self._loop = asyncio.get_running_loop()

    def have_room(self, namespace: str, report: ReplicaReport) -> bool:
        """Return whether one more replica may be known; if need be, one that has proven nothing is forgotten for it."""
        if self._table.known_of(namespace) >= MAX_REPLICAS:
            return False
        unproven = self._table.unproven_of(namespace)
        if len(unproven) < MAX_UNPROVEN:
            return True
        if report.state is not ReplicaState.READY:
            return False
        useless = (
            replica
            for replica in unproven
            if not replica.probing and (replica.probe_fault or replica.report.state is not ReplicaState.READY)
        )
        displaced = next(useless, None)
        if displaced is None:
            return False
        self._table.remove_replica(unproven[displaced], displaced)
        return True

    def budget(self, namespace: str) -> ProbeBudget:
        """Return what the namespace's unproven replicas may be probed."""
        return self._budgets.setdefault(namespace, ProbeBudget())

    def ignore(self, namespace: str, pod: str, why: str) -> None:
        """Log that something about a replica is ignored: once in ten minutes, as reports come every second."""
        now = self._loop.time()
        told = self._told.get(namespace)
        if told is None or now - told.since > TELL_AGAIN_SECONDS:
            told = self._told[namespace] = Told(now)
        lines = told.lines
        line = f"ignored {namespace}/{pod}: {why}"
        if line in lines or len(lines) > MAX_TOLD:
            return
        lines.add(line)
        log.warning(
            "%s", line if len(lines) <= MAX_TOLD else f"more reports of {namespace} are ignored without a line here"
        )


@dataclass(frozen=True, slots=True)
class Told:
    """What was logged about a namespace."""

    since: float
    lines: set[str] = field(default_factory=set)


class ProbeBudget:
    """A bucket of probes that may fail; one that proves an address is given back."""

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(PROBES_AT_ONCE)
        self._loop = asyncio.get_running_loop()
        self._saved = FAILURES_SAVED
        self._at = self._loop.time()

    def spend(self) -> bool:
        """Return whether one more probe may be made, and count it."""
        now = self._loop.time()
        self._saved = min(FAILURES_SAVED, self._saved + (now - self._at) * FAILURES_PER_SECOND)
        self._at = now
        if self._saved < 1:
            return False
        self._saved -= 1
        return True

    def refund(self) -> None:
        """It proved the address."""
        self._saved += 1
