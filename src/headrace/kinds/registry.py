"""Registry of the kinds that headrace defines or handles. A new kind of resource is one `register` line.

Other modules look the kinds up at run time and derive nothing from them at import, because a test registers an
additional kind before it starts an instance or an operator.
"""

from __future__ import annotations

from headrace.api import kinds
from headrace.api.kinds import Kind
from headrace.kinds.modeldeployment import MODEL_DEPLOYMENT
from headrace.kinds.resource_kind import ResourceKind

RESOURCE_KINDS: dict[str, ResourceKind] = {}
"""Kinds that headrace defines, by name."""
KINDS: dict[str, Kind] = {}
"""The kinds that the local API and the command line know, by name."""


def register(resource: ResourceKind) -> None:
    """Add a kind of resource. Raises ValueError if another kind has the same name, label or suffix."""
    for other in RESOURCE_KINDS.values():
        if other.kind.kind == resource.kind.kind or {other.label, other.suffix} & {resource.label, resource.suffix}:
            raise ValueError(f"{resource.kind.kind} has the name, label or suffix of {other.kind.kind}")
    RESOURCE_KINDS[resource.kind.kind] = resource
    KINDS[resource.kind.kind] = resource.kind


register(MODEL_DEPLOYMENT)

KINDS.update(
    {
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
)


def user_kinds() -> dict[str, Kind]:
    """Return the kinds whose objects users create; objects of the other kinds are created by headrace and read-only."""
    return {name: KINDS[name] for name in (*RESOURCE_KINDS, kinds.SECRET.kind, kinds.CONFIG_MAP.kind)}


def child_kinds() -> tuple[Kind, ...]:
    """Return the kinds of the children of all resources, each once."""
    return tuple(dict.fromkeys(child for resource in RESOURCE_KINDS.values() for child in resource.children))


def resource_labels() -> dict[str, str]:
    """Return, by kind of resource, the label that names it on its children and their pods."""
    return {name: resource.label for name, resource in RESOURCE_KINDS.items()}
