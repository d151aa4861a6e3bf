"""Environment variables of the pods of a model: identity, NATS credentials, model path and limits.

They are set in the pod templates, by the downward API for values of the pod itself, and read in `headrace.serving` and
`headrace.sources.fetch`. A runtime without them serves requests and does not register itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

NAMESPACE = "HEADRACE_NAMESPACE"
MODEL_DEPLOYMENT = "HEADRACE_MODEL_DEPLOYMENT"
REVISION = "HEADRACE_REVISION"
POD_NAME = "HEADRACE_POD_NAME"
"""fieldRef metadata.name"""
POD_IP = "HEADRACE_POD_IP"
"""fieldRef status.podIP. In local mode each pod has its own address in 127.0.0.0/8."""
NATS_URL = "HEADRACE_NATS_URL"
"""From the platform's settings, e.g. nats://127.0.0.1:4222; contains no credentials."""
NATS_USER = "HEADRACE_NATS_USER"
"""secretKeyRef `headrace-nats`, key `user`: the NATS user of the runtimes of the pod's namespace."""
NATS_PASSWORD = "HEADRACE_NATS_PASSWORD"  # noqa: S105 - the variable's name, not a password
"""secretKeyRef `headrace-nats`, key `password`."""
NATS_SECRET = "headrace-nats"  # noqa: S105 - the Secret's name
"""Name of the Secret with the runtimes' NATS credentials in each namespace."""
SOURCES_SECRET = "headrace-sources"  # noqa: S105 - as above
"""Name of the Secret of a namespace with the credentials and endpoints of its sources, as environment variables."""
SOURCES_VARIABLES = r"AWS_.*|HF_ENDPOINT|HF_TOKEN|DOCKER_AUTH_CONFIG|DOCKER_CONFIG|OCI_PLAIN_HTTP"
"""Pattern of those variables: of all processes of local mode, only the fetches of such sources inherit them."""
SOURCE_URI = "HEADRACE_SOURCE_URI"
"""URI that a fetch Job downloads. Not an argument, because it may contain credentials, and all users of a machine can
read command lines."""
MODEL_PATH = "HEADRACE_MODEL_PATH"
"""Of a custom container: the path of the model's file."""
MODEL_NAME = "HEADRACE_MODEL_NAME"
"""Of a custom container: the model's public name."""
TERMINATION_MESSAGE_PATH = "HEADRACE_TERMINATION_MESSAGE_PATH"
"""File for the termination message; unset means /dev/termination-log, as in a cluster."""
GRACE_SECONDS = "HEADRACE_GRACE_SECONDS"
"""The pod's terminationGracePeriodSeconds: requests that are still in flight after it are cut off."""
MAX_BODY_BYTES = "HEADRACE_MAX_BODY_BYTES"
"""The largest request body that gateways forward (`gateway.maxBodyBytes`), which runtimes must accept. Set only if it
differs from the default, `headrace.http.bodies.MAX_BODY_BYTES`."""
POD_NETWORKS = "HEADRACE_POD_NETWORKS"
"""Of the gateway: comma-separated networks in CIDR notation that replicas' addresses must be in."""
NATS_RUNTIME_KEY = "HEADRACE_NATS_RUNTIME_KEY"
"""Of the broker and the operator: the key from which the runtimes' passwords are derived."""
ALLOWED_HOSTS = "HEADRACE_ALLOWED_HOSTS"
"""Comma-separated values of `Host` that a loopback server without API keys accepts in addition to `localhost` and IP
addresses (see `headrace.http.local`). Empty by default: otherwise a web page whose name resolves to 127.0.0.1 would be
served. Needed for a reverse proxy on this machine that keeps its own `Host`."""
ALLOWED_ORIGINS = "HEADRACE_ALLOWED_ORIGINS"
"""Comma-separated origins (`https://chat.example`) of web pages whose requests such a server accepts in addition to
those of this machine. Empty by default: otherwise any page could start models. No CORS headers are sent: pages cannot
read responses."""
AGENT_SOCKET = "HEADRACE_AGENT_SOCKET"
"""Path of the node agent's Unix socket, in pods that have the volume of the node agent."""
AGENT_SOCKET_NAME = "agent.sock"
"""Name of that socket in the directory that is the volume."""
KEEP = "HEADRACE_KEEP"
"""`Process` in pods that a warm process may become (`spec.scaling.coldStart.keep`)."""
SET_IN_PODS = (
    *(NAMESPACE, MODEL_DEPLOYMENT, REVISION, POD_NAME, POD_IP),
    *(NATS_URL, NATS_USER, NATS_PASSWORD),
    *(SOURCE_URI, MODEL_PATH, MODEL_NAME, TERMINATION_MESSAGE_PATH, GRACE_SECONDS, MAX_BODY_BYTES, AGENT_SOCKET),
    KEEP,
)
"""Variables that headrace sets in the pods of a model, in a cluster and in local mode: `spec.template.env` must not set
them. Adding a name here makes stored resources invalid that already use it."""
_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by the variable's value; an unknown one stays, and `$$` is a dollar sign."""

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "$"
        return variables.get(name, match[0])

    return _REFERENCE.sub(replace, text)
