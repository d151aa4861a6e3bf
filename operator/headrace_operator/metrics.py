"""Metrics of the operator; those of the reconcile loop are in `headrace.control.metrics`."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

WRITES = Counter("headrace_operator_writes", "Writes to the API server, without the Lease's", ["verb", "kind"])
SKIPPED = Counter("headrace_operator_writes_skipped", "Children that needed no write")
LEADER = Gauge("headrace_operator_leader", "1 on the replica that holds the Lease, else 0")
OBJECTS = Gauge("headrace_operator_objects", "Objects in the index", ["kind"])
VANISHED = Counter("headrace_operator_vanished_objects", "Objects whose deletion was reported by no watch")
