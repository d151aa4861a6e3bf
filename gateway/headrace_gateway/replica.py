"""One replica as this gateway sees it: its report, its state here, and its connections."""

from __future__ import annotations

from headrace import headers
from headrace.events.messages import Announcement, ReplicaReport, ReplicaState
from headrace.events.secret import token
from headrace_gateway.upstream.pool import Pool


class Replica:
    """A process of a runtime, known by its pod's name. A restarted process (another `started`) is another replica."""

    def __init__(self, report: ReplicaReport, now: float) -> None:
        self.report = report
        self.reported_at = now
        """Monotonic time of the last report."""
        self.alive = now
        """Monotonic time of the last sign of life of the process: its own report, an answer to a probe, or bytes of a
        response."""
        self.pool = Pool(report.host, report.port)
        host = f"[{report.host}]" if ":" in report.host else report.host
        self.host_field = f"host: {host}:{report.port}\r\n"
        self.fields = self.host_field.encode()
        """The header lines of every request to it."""
        if isinstance(report, Announcement):
            self.fields += f"{headers.REPLICA_TOKEN}: {token(report.secret)}\r\n".encode()
        self.proven = not isinstance(report, Announcement)
        """Whether its address is proven: by its process, or because the reconcile loop has it from the API server."""
        self.admitted = False
        """Whether requests are routed here: it reported Ready and answered the probe."""
        self.probing = False
        self.probed_at = float("-inf")
        """Monotonic time at which a probe after a report began."""
        self.probe_fault = ""
        """Fault of the last readiness probe."""
        self.unanswered = False
        """Whether its last probe was not answered at all."""
        self.suspect = False
        """Whether it has not reported for several intervals: it is used only after all others."""
        self.in_flight = 0
        """Requests of this gateway that it processes."""
        self.busy_since = now
        """Monotonic time of its first request after it had none."""
        self.others = 0
        """Estimate of the requests of other gateways: reported minus own. Good for comparing, not for rejecting: a
        report is up to a second old and may include own requests that have ended since."""
        self.paused = False
        """Whether it answered 429 a moment ago."""
        self.last_used = 0
        """Number of the last request that was sent here: of equal replicas the least recently used is chosen."""
        self.acknowledged: ReplicaState | None = None
        self.acknowledged_at = 0.0

    @property
    def pod(self) -> str:
        """The pod's name."""
        return self.report.pod

    @property
    def secret(self) -> str | None:
        """Secret of its process; None for one that does not register itself."""
        return self.report.secret if isinstance(self.report, Announcement) else None

    @property
    def capacity(self) -> int:
        """Requests that may be sent here at once."""
        return self.report.capacity

    @property
    def load(self) -> float:
        """Share of the capacity in use, requests of other gateways included."""
        return (self.in_flight + self.others) / self.capacity

    @property
    def has_capacity(self) -> bool:
        """Whether a request can be sent here now."""
        return self.admitted and self.in_flight < self.report.capacity and not self.paused

    def update(self, report: ReplicaReport, now: float) -> None:
        """Take a further report."""
        self.report = report
        self.reported_at = now
        self.suspect = False
        if isinstance(report, Announcement):
            self.note_alive(now)
        self.others = max(0, report.load.queued + report.load.running - self.in_flight)

    def quiet_seconds(self, now: float) -> float:
        """Return the seconds without a sign of life, at most since its first request in flight."""
        return now - max(self.alive, self.busy_since)

    def note_alive(self, now: float) -> None:
        """Note a sign of life of its process."""
        self.alive = now
        self.unanswered = False

    def withdraw(self) -> None:
        """Route no further requests here; those in flight continue."""
        self.admitted = False
        self.pool.renew()
