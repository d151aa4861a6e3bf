"""NATS subjects and buckets, with their publishers and subscribers.

`namespace` and `name` are those of a ModelDeployment, and DNS labels (no dots), so each is one token. All subjects and
buckets here are for ModelDeployments only: a resource of another kind may have the same name, so each kind has its own
subjects and buckets. Each role has a NATS user with its own permissions: `gateway` publishes demand and admissions;
`runtime` of a namespace publishes replica reports and fetch progress of that namespace; the reconcile loop writes the
route and key buckets, and publishes reports for replicas that do not register themselves.
"""

from __future__ import annotations

ROUTES_BUCKET = "headrace-routes"
"""Key-value, key `<namespace>.<name>` -> `headrace.routes.Route`; written by the reconcile loop only."""
KEYS_BUCKET = "headrace-keys"
"""Key-value, key `<namespace>.<SHA-256 (hex) of an API key>` -> `headrace.routes.KeyGrant`; written by the reconcile
loop only."""
GATEWAYS_BUCKET = "headrace-gateways"
"""Key-value with a time to live of 5 s: a gateway's presence; key = gateway id; value = its start time."""
GATEWAY_TTL_SECONDS = 5.0

SOLICIT = "headrace.solicit"
"""A gateway or reconcile loop that has (re)started requests a report of every replica. Empty payload."""

ADMIT = "headrace.broker.admit"
"""Request of the loop to the broker of a cluster: `messages.AdmittedNamespaces`; reply: `messages.AdmittedAnswer`.

Sent at each change of the set, and after each reconnection.
"""


def demand(namespace: str, name: str) -> str:
    """Gateway -> loop: `messages.Demand`.

    Published when the first request is queued, then every second while it is not zero, and once when it is zero again.
    """
    return f"headrace.demand.{namespace}.{name}"


def replica(namespace: str, name: str, pod: str) -> str:
    """Runtime -> gateways and loop: `messages.Announcement`, at each change of state or stage, then every second."""
    return f"headrace.replica.{namespace}.{name}.{pod}"


def container_report(namespace: str, name: str, pod: str) -> str:
    """Loop -> gateways and loop: `messages.ReplicaReport` of a replica that does not register itself.

    It has its own subject, on which no runtime may publish, because gateways trust its address without a proof.
    """
    return f"headrace.brought.{namespace}.{name}.{pod}"


def admission(namespace: str, name: str, pod: str) -> str:
    """Gateway -> loop and the replica: `messages.Admission`, the acknowledgement of Ready and Draining."""
    return f"headrace.admission.{namespace}.{name}.{pod}"


def progress(namespace: str, name: str) -> str:
    """Fetch child -> loop and gateways: `messages.FetchProgress`, at most four times a second."""
    return f"headrace.progress.{namespace}.{name}"


def launch(namespace: str, pod: str) -> str:
    """Loop -> standby pod: `messages.Launch`, at each pass until the pod reports as a replica."""
    return f"headrace.launch.{namespace}.{pod}"


ALL_DEMAND = "headrace.demand.*.*"
ALL_REPLICAS = "headrace.replica.*.*.*"
ALL_CONTAINER_REPORTS = "headrace.brought.*.*.*"
ALL_ADMISSIONS = "headrace.admission.*.*.*"
ALL_PROGRESS = "headrace.progress.*.*"
ALL_PRESENCE = f"$KV.{GATEWAYS_BUCKET}.*"
"""A put into a bucket is a message on its subject, received without a consumer, which a broker's restart would lose."""


def inbox(user: str | None) -> str:
    """Return the prefix of a user's reply subjects: each has its own, so that no role receives another's replies."""
    return "_INBOX" if user is None else f"_INBOX.{user}"
