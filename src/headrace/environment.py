"""Environment variables by which a pod template tells who it is to a child of ours, and to whoever announces itself.

They are set in `headrace.reconcile`, by downward API where the value is the pod's own, and read in
`headrace.serving` and `headrace.sources.fetch`. A child without them stands alone: it serves and reports to nobody.
"""

from __future__ import annotations

NAMESPACE = "HEADRACE_NAMESPACE"
MODEL_DEPLOYMENT = "HEADRACE_MODEL_DEPLOYMENT"
REVISION = "HEADRACE_REVISION"
POD_NAME = "HEADRACE_POD_NAME"
"""fieldRef metadata.name"""
POD_IP = "HEADRACE_POD_IP"
"""fieldRef status.podIP. In local mode each pod has its own address in 127.0.0.0/8."""
NATS_URL = "HEADRACE_NATS_URL"
"""Value comes from the platform's settings, e.g. nats://127.0.0.1:4222 (no credentials in it)."""
NATS_USER = "HEADRACE_NATS_USER"
"""secretKeyRef `headrace-nats`, key `user`: the runtime role of the pod's namespace."""
NATS_PASSWORD = "HEADRACE_NATS_PASSWORD"  # noqa: S105 - the variable's name, not a password
"""secretKeyRef `headrace-nats`, key `password`."""
NATS_SECRET = "headrace-nats"  # noqa: S105 - the Secret's name
"""Name of the Secret with the runtime role's NATS credentials in each namespace."""
SOURCE_URI = "HEADRACE_SOURCE_URI"
"""What a fetch child brings. Not an argument: it may hold credentials, and a command line is everybody's to read."""
MODEL_PATH = "HEADRACE_MODEL_PATH"
"""Of a container that is brought: the model's file."""
MODEL_NAME = "HEADRACE_MODEL_NAME"
"""Of a container that is brought: the model's public name."""
TERMINATION_MESSAGE_PATH = "HEADRACE_TERMINATION_MESSAGE_PATH"
"""Where to write the one line of cause and hint; unset means /dev/termination-log, as in a cluster."""
GRACE_SECONDS = "HEADRACE_GRACE_SECONDS"
"""The pod's terminationGracePeriodSeconds: work that still runs after it is cut off."""
MAX_BODY_BYTES = "HEADRACE_MAX_BODY_BYTES"
"""The largest request body that gateways send (`gateway.maxBodyBytes`), so that runtimes read as much. Set only where
it is not the default, `headrace.http.bodies.MAX_BODY_BYTES`."""
POD_NETWORKS = "HEADRACE_POD_NETWORKS"
"""Not of a child, but of the gateway: networks in CIDR notation, with commas, in which replicas may be."""
NATS_RUNTIME_KEY = "HEADRACE_NATS_RUNTIME_KEY"
"""Not of a child, but of the platform's own broker and operator: derives the runtime roles' passwords."""
ALLOWED_HOSTS = "HEADRACE_ALLOWED_HOSTS"
"""Names, with commas between them, under which a server may be asked that serves this machine alone without keys,
besides `localhost` and IP addresses (see `headrace.http.local`). None by default: a page of the web whose name resolves
to 127.0.0.1 would be served. Needed for a reverse proxy on this machine that keeps its own `Host`."""
ALLOWED_ORIGINS = "HEADRACE_ALLOWED_ORIGINS"
"""Origins (`https://chat.example`), with commas between them, of web pages that such a server serves besides those of
this machine. None by default: any page could start models. No CORS headers are sent: pages cannot read answers."""
SET_IN_PODS = (
    *(NAMESPACE, MODEL_DEPLOYMENT, REVISION, POD_NAME, POD_IP),
    *(NATS_URL, NATS_USER, NATS_PASSWORD),
    *(SOURCE_URI, MODEL_PATH, MODEL_NAME, TERMINATION_MESSAGE_PATH, GRACE_SECONDS, MAX_BODY_BYTES),
)
"""What headrace sets in the pods of a model, in a cluster or on this machine: `spec.template.env` may not name these.
A name that is added here makes stored resources invalid that already use it."""
