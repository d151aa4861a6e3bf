"""One replica as this gateway sees it: what it says of itself, and what we have going with it."""

from __future__ import annotations

from headrace import headers
from headrace.events.messages import Announcement, ReplicaReport, ReplicaState
from headrace.events.secret import token
from headrace_gateway.upstream.pool import Pool


class Replica:
    """A process of a runtime, known by its pod's name. A restarted process (another `started`) is another replica."""

    def __init__(self, report: ReplicaReport, heard: float) -> None:
        self.report = report
        self.heard = heard
        """Monotonic time of the last report."""
        self.alive = heard
        """Monotonic time of the last sign of life of the process itself: a report of its own, the answer to a probe, or
        anything that came for a request."""
        self.pool = Pool(report.host, report.port)
        host = f"[{report.host}]" if ":" in report.host else report.host
        self.host_field = f"host: {host}:{report.port}\r\n"
        self.fields = self.host_field.encode()
        """The header lines that every request to it has."""
        if isinstance(report, Announcement):
            self.fields += f"{headers.REPLICA_TOKEN}: {token(report.secret)}\r\n".encode()
        self.proven = not isinstance(report, Announcement)
        """Whether it is at the address that it reports: its process proved it, or the report is of the reconcile loop,
        which has the address from the API server."""
        self.admitted = False
        """Whether requests are routed here: it said Ready, and answered the probe."""
        self.probing = False
        self.probed_at = float("-inf")
        """Monotonic time at which a probe after a report began."""
        self.probe_fault = ""
        """What kept it from answering its readiness probe last."""
        self.unanswered = False
        """Whether its last probe was not answered at all."""
        self.suspect = False
        """Silent for longer than a live replica is: still used, but after all others."""
        self.in_flight = 0
        """Requests of ours that it has."""
        self.busy_since = heard
        """Monotonic time at which it got a request while it had none."""
        self.others = 0
        """Requests that it reported beyond ours: those of other gateways, roughly. Good for comparing, not for
        refusing: a report is up to a second old, and may count as theirs what was ours and has ended."""
        self.paused = False
        """It said 429 a moment ago."""
        self.last_used = 0
        """Number of the last request that was sent here: equals take turns."""
        self.acknowledged: ReplicaState | None = None
        self.acknowledged_at = 0.0

    @property
    def pod(self) -> str:
        """The pod's name."""
        return self.report.pod

    @property
    def secret(self) -> str | None:
        """What its process alone knows; None for one that does not register itself."""
        return self.report.secret if isinstance(self.report, Announcement) else None

    @property
    def capacity(self) -> int:
        """Requests that may be sent here at once."""
        return self.report.capacity

    @property
    def load(self) -> float:
        """Share of the capacity in use, others' requests included."""
        return (self.in_flight + self.others) / self.capacity

    @property
    def has_place(self) -> bool:
        """Whether a request can be sent here at once."""
        return self.admitted and self.in_flight < self.report.capacity and not self.paused

    def update(self, report: ReplicaReport, now: float) -> None:
        """It has reported again."""
        self.report = report
        self.heard = now
        self.suspect = False
        if isinstance(report, Announcement):
            self.lives(now)
        self.others = max(0, report.load.queued + report.load.running - self.in_flight)

    def quiet_seconds(self, now: float) -> float:
        """Return for how long there was no sign of life, at most since it has requests."""
        return now - max(self.alive, self.busy_since)

    def lives(self, now: float) -> None:
        """Its process gave a sign of life."""
        self.alive = now
        self.unanswered = False

    def withdraw(self) -> None:
        """Send nothing more here; what runs goes on."""
        self.admitted = False
        self.pool.renew()
