"""Names of the node agent's metrics.

`tenant` is a namespace and `class` the class of an object: weights, experts, kv, assets, updates.
prometheus_client appends `_total` to counters.
"""

from __future__ import annotations

TENANT_LABEL = "tenant"
CLASS_LABEL = "class"

VOLUMES = "headrace_node_volumes"
"""Gauge by `tenant`: volumes of pods, each with a socket."""
SESSIONS = "headrace_node_sessions"
"""Gauge by `tenant`: connected clients."""
