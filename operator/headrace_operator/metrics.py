"""What the operator counts; the loop counts for itself (`headrace.control.metrics`)."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

WRITES = Counter("headrace_operator_writes", "Writes to the API server, without the Lease's", ["verb", "kind"])
SKIPPED = Counter("headrace_operator_writes_skipped", "Children that were looked at and needed no write")
LEADER = Gauge("headrace_operator_leader", "1 on the replica that reconciles, 0 on the one that waits")
OBJECTS = Gauge("headrace_operator_objects", "Objects in the index", ["kind"])
VANISHED = Counter("headrace_operator_vanished_objects", "Deletions that the watch missed; a list found them")
