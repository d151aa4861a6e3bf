"""Metrics of the reconcile loop."""

from prometheus_client import Counter, Gauge, Histogram

RESOURCES = Gauge("headrace_resources", "ModelDeployments that the reconcile loop looks after.")
RECONCILE_SECONDS = Histogram(
    "headrace_reconcile_seconds",
    "Time of one look at one resource, writes included.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5),
)
RECONCILE_ERRORS = Counter("headrace_reconcile_errors", "Looks that failed and are tried again.")
