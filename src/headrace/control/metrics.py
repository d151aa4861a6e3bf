"""Metrics of the reconcile loop."""

from prometheus_client import Counter, Gauge, Histogram

RESOURCES = Gauge("headrace_resources", "Resources that the reconcile loop manages.")
RECONCILE_SECONDS = Histogram(
    "headrace_reconcile_seconds",
    "Duration of a reconcile pass of one resource, including writes.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5),
)
RECONCILE_ERRORS = Counter("headrace_reconcile_errors", "Reconcile passes that failed and are retried.")
