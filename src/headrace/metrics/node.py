"""Names of the node agent's metrics.

`tenant` is a namespace and `class` the class of an object: weights, experts, kv, assets, updates.
prometheus_client appends `_total` to counters.
"""

from __future__ import annotations

TENANT_LABEL = "tenant"
CLASS_LABEL = "class"
ENDPOINT_LABEL = "endpoint"

VOLUMES = "headrace_node_volumes"
"""Gauge by `tenant`: volumes of pods, each with a socket."""
SESSIONS = "headrace_node_sessions"
"""Gauge by `tenant`: connected clients."""
STORE_LIMIT_BYTES = "headrace_node_store_limit_bytes"
"""Gauge: memory that the store may use."""
STORE_BYTES = "headrace_node_store_bytes"
"""Gauge by `tenant` and `class`: memory of objects and of drafts, which are not sealed yet."""
STORE_POOL_BYTES = "headrace_node_store_pool_bytes"
"""Gauge: memory that is ready for the next objects."""
STORE_POPULATED = "headrace_node_store_populated_bytes"
"""Counter by `pages` (`huge`, `small`): memory of new segments. With `node.store.hugePages` all of it is huge; with
`shmem_enabled` at `advise`, the kernel decides, and it counts as `small`."""
STORE_OBJECTS = "headrace_node_store_objects"
"""Gauge by `tenant` and `class`: sealed objects."""
STORE_LEASES = "headrace_node_store_leases"
"""Gauge by `tenant` and `class`: leases of clients. Objects with a lease are not evicted."""
STORE_PUTS = "headrace_node_store_puts"
"""Counter by `tenant` and `class`: sealed objects since the agent's start."""
STORE_HITS = "headrace_node_store_hits"
"""Counter by `tenant` and `class`: requests for an object that the store had."""
STORE_MISSES = "headrace_node_store_misses"
"""Counter by `tenant`: requests for an object that the store had not."""
STORE_EVICTIONS = "headrace_node_store_evictions"
"""Counter by `tenant` and `class`: objects that were evicted to make room."""
STORE_REAPED = "headrace_node_store_reaped_drafts"
"""Counter: drafts whose client disconnected before it sealed them."""
STORE_ADOPTED = "headrace_node_store_adopted_objects"
"""Counter: objects of the former agent that survived its end."""
BUS_ENDPOINTS = "headrace_node_bus_endpoints"
"""Gauge by `tenant`: endpoints of the descriptor bus."""
BUS_EBPF = "headrace_node_bus_ebpf"
"""Gauge: 1 if the kernel redirects descriptors between sockets, 0 if the agent forwards them."""
BUS_KERNEL_FRAMES = "headrace_node_bus_kernel_frames"
"""Counter by `tenant`, `endpoint` and `outcome`: frames of an endpoint in the kernel. It sent those `redirected`,
`passed` to the agent and, of these, `forged` (with another source); it got those `received`."""
BUS_FORWARDED = "headrace_node_bus_forwarded_frames"
"""Counter by `to`: frames that the agent forwarded itself: to a transport, the activator or another node."""
BUS_ERRORS = "headrace_node_bus_errors"
"""Counter by `reason`: frames that were not delivered."""
