"""Every NATS subject and bucket, who publishes on it, and who listens.

`namespace` and `name` are those of a ModelDeployment, and DNS labels (no dots), so each is one token. Every subject and
bucket here is of ModelDeployments alone: a resource of another kind may have the same name, so its kind gets subjects
and buckets of its own. A user per role may touch only its own:
`gateway` publishes demand and admissions; `runtime` of a namespace publishes replica reports and fetch progress of
that namespace; the reconcile loop writes the route and key buckets, and reports for replicas that cannot.
"""

from __future__ import annotations

ROUTES_BUCKET = "headrace-routes"
"""Key-value, key `<namespace>.<name>` -> `headrace.routes.Route`; written by the reconcile loop alone."""
KEYS_BUCKET = "headrace-keys"
"""Key-value, key `<namespace>.<SHA-256 (hex) of an API key>` -> `headrace.routes.KeyGrant`; written by the reconcile
loop alone."""
GATEWAYS_BUCKET = "headrace-gateways"
"""Key-value with a time to live of 5 s: a gateway's presence; key = gateway id; value = its start time."""
GATEWAY_TTL_SECONDS = 5.0

SOLICIT = "headrace.solicit"
"""A gateway or loop that just (re)started asks every replica to report at once. Empty payload."""

ADMIT = "headrace.broker.admit"
"""Request of the loop to the broker of a cluster: `messages.AdmittedNamespaces`; answer: `messages.AdmittedAnswer`.

At each change of the set, and after each return of the broker.
"""


def demand(namespace: str, name: str) -> str:
    """Gateway -> loop: `messages.Demand`.

    At once when the first request is queued, then every second while not zero, and once more at the return to zero.
    """
    return f"headrace.demand.{namespace}.{name}"


def replica(namespace: str, name: str, pod: str) -> str:
    """Runtime -> gateways and loop: `messages.Announcement`, at each change of state or stage, then every second."""
    return f"headrace.replica.{namespace}.{name}.{pod}"


def brought(namespace: str, name: str, pod: str) -> str:
    """Loop -> gateways and loop: `messages.ReplicaReport` of a replica that does not register itself.

    A subject of its own, because its address is believed without a proof: no runtime may publish on it.
    """
    return f"headrace.brought.{namespace}.{name}.{pod}"


def admission(namespace: str, name: str, pod: str) -> str:
    """Gateway -> loop and that replica: `messages.Admission`, the acknowledgement of ready and of draining."""
    return f"headrace.admission.{namespace}.{name}.{pod}"


def progress(namespace: str, name: str) -> str:
    """Fetch child -> loop and gateways: `messages.FetchProgress`, at most four times a second."""
    return f"headrace.progress.{namespace}.{name}"


ALL_DEMAND = "headrace.demand.*.*"
ALL_REPLICAS = "headrace.replica.*.*.*"
ALL_BROUGHT = "headrace.brought.*.*.*"
ALL_ADMISSIONS = "headrace.admission.*.*.*"
ALL_PROGRESS = "headrace.progress.*.*"
ALL_PRESENCE = f"$KV.{GATEWAYS_BUCKET}.*"
"""A put into a bucket is a message on its subject: heard live, with no consumer that a broker's restart would lose."""


def inbox(user: str | None) -> str:
    """Return the prefix of a user's reply subjects: one for each, so that no role may listen to another's answers."""
    return "_INBOX" if user is None else f"_INBOX.{user}"
