"""One replica as this gateway sees it: what it says of itself, and what we have going with it."""

from __future__ import annotations

from headrace.events.messages import ReplicaReport, ReplicaState
from headrace_gateway.upstream.pool import Pool


class Replica:
    """A process of a runtime, known by its pod's name. A restarted process (another `started`) is another replica."""

    def __init__(self, report: ReplicaReport, heard: float) -> None:
        self.report = report
        self.heard = heard
        """Monotonic time of the last report."""
        self.pool = Pool(report.host, report.port)
        host = f"[{report.host}]" if ":" in report.host else report.host
        self.host_header = f"{host}:{report.port}"
        self.admitted = False
        """Whether requests are routed here: it said Ready, and answered the probe."""
        self.probing = False
        self.probe_fault = ""
        """What kept it from answering its readiness probe last."""
        self.suspect = False
        """Silent for longer than a live replica is: still used, but after all others."""
        self.in_flight = 0
        """Requests of ours that it has."""
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
        """It has spoken again."""
        self.report = report
        self.heard = now
        self.suspect = False
        self.others = max(0, report.load.queued + report.load.running - self.in_flight)

    def withdraw(self) -> None:
        """Send nothing more here; what runs goes on."""
        self.admitted = False
        self.pool.close()
        self.pool = Pool(self.report.host, self.report.port)
