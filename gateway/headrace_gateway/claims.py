"""Bounds, per namespace, for reported replicas that have not proven their address.

A client with the NATS login of a namespace can report any number of replicas at any addresses. An unproven replica
reserves nothing; it costs an entry in the table and a probe, and both are bounded per namespace. So false reports delay
only their own namespace.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from headrace.events.messages import ReplicaReport, ReplicaState
from headrace_gateway.table import Table

log = logging.getLogger(__name__)

MAX_REPLICAS = 1000
"""Of one namespace; far above real numbers."""
MAX_UNPROVEN = 16
"""Of one namespace: so many may start at the same moment. The next one waits for its next report, a second later."""
PROBES_AT_ONCE = 8
"""Of one namespace's unproven replicas. A proof takes a millisecond, an address where nothing answers two seconds."""
FAILURE_BURST = 16.0
FAILURES_PER_SECOND = 4.0
"""Failed probes of one namespace's unproven replicas: burst and rate. Each of them may reach an unrelated process."""
MAX_LOGGED_LINES = 64
"""Log lines about the reports of one namespace: false reports must not fill the disk."""
LOG_AGAIN_SECONDS = 600.0
"""After that the lines of a namespace are written again, so that a current log contains what is still ignored."""


class Claims:
    """The bounds of every namespace."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._budgets: dict[str, ProbeBudget] = {}  # bounded by the namespaces that may log in to NATS
        self._logged: dict[str, LoggedLines] = {}
        self._loop = asyncio.get_running_loop()

    def have_capacity(self, namespace: str, report: ReplicaReport) -> bool:
        """Return whether one more replica may be added; if necessary, an unproven one that is not ready is removed."""
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
        """Return the budget of probes of the namespace's unproven replicas."""
        return self._budgets.setdefault(namespace, ProbeBudget())

    def ignore(self, namespace: str, pod: str, why: str) -> None:
        """Log that something about a replica is ignored: once in ten minutes, because reports arrive every second."""
        now = self._loop.time()
        logged = self._logged.get(namespace)
        if logged is None or now - logged.since > LOG_AGAIN_SECONDS:
            logged = self._logged[namespace] = LoggedLines(now)
        lines = logged.lines
        line = f"ignored {namespace}/{pod}: {why}"
        if line in lines or len(lines) > MAX_LOGGED_LINES:
            return
        lines.add(line)
        log.warning(
            "%s",
            line if len(lines) <= MAX_LOGGED_LINES else f"more reports of {namespace} are ignored without a line here",
        )


@dataclass(frozen=True, slots=True)
class LoggedLines:
    """The log lines about a namespace."""

    since: float
    lines: set[str] = field(default_factory=set)


class ProbeBudget:
    """A token bucket of probes that may fail; a successful probe returns its token."""

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(PROBES_AT_ONCE)
        self._loop = asyncio.get_running_loop()
        self._saved = FAILURE_BURST
        self._at = self._loop.time()

    def spend(self) -> bool:
        """Return whether one more probe may be made, and count it."""
        now = self._loop.time()
        self._saved = min(FAILURE_BURST, self._saved + (now - self._at) * FAILURES_PER_SECOND)
        self._at = now
        if self._saved < 1:
            return False
        self._saved -= 1
        return True

    def refund(self) -> None:
        """Return the token of a probe that proved the address."""
        self._saved += 1
