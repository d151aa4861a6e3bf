"""Every kind that headrace has or handles. A new kind of resource is one line in `RESOURCE_KINDS`."""

from __future__ import annotations

from headrace.api import kinds
from headrace.api.kinds import Kind
from headrace.kinds.modeldeployment import MODEL_DEPLOYMENT
from headrace.kinds.resource_kind import ResourceKind

RESOURCE_KINDS: dict[str, ResourceKind] = {resource.kind.kind: resource for resource in (MODEL_DEPLOYMENT,)}
"""Our own kinds, by name."""

KINDS: dict[str, Kind] = {name: resource.kind for name, resource in RESOURCE_KINDS.items()} | {
    kind.kind: kind
    for kind in (
        kinds.DEPLOYMENT,
        kinds.DAEMON_SET,
        kinds.JOB,
        kinds.POD,
        kinds.SERVICE,
        kinds.CONFIG_MAP,
        kinds.SECRET,
        kinds.EVENT,
    )
}
"""The kinds that the local API and the command line know, by name."""


def user_kinds() -> dict[str, Kind]:
    """Return the kinds whose objects users make; the others are made by headrace and only read."""
    return {name: KINDS[name] for name in (*RESOURCE_KINDS, kinds.SECRET.kind, kinds.CONFIG_MAP.kind)}


def child_kinds() -> tuple[Kind, ...]:
    """Return the kinds of the children of all resources, each once."""
    return tuple(dict.fromkeys(child for resource in RESOURCE_KINDS.values() for child in resource.children))
