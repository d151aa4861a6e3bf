"""Registry of the kinds that headrace defines or handles. A new kind of resource is one `register` line.

Other modules look the kinds up at run time and derive nothing from them at import, because a test registers an
additional kind before it starts an instance or an operator.
"""

from __future__ import annotations

import re

from headrace.api import kinds
from headrace.api.kinds import Kind
from headrace.api.vocabulary import COMPONENT_FETCH, COMPONENT_RUNTIME, COMPONENT_STANDBY
from headrace.kinds.modeldeployment import MODEL_DEPLOYMENT
from headrace.kinds.resource_kind import ResourceKind

RESOURCE_KINDS: dict[str, ResourceKind] = {}
"""Kinds that headrace defines, by name."""
KINDS: dict[str, Kind] = {}
"""The kinds that the local API and the command line know, by name."""


def register(resource: ResourceKind) -> None:
    """Add a kind of resource. Raises ValueError when it would interfere with another kind."""
    if (fault := _fault(resource)) is not None:
        raise ValueError(f"the kind {resource.kind.kind} cannot be registered: {fault}")
    RESOURCE_KINDS[resource.kind.kind] = resource
    KINDS[resource.kind.kind] = resource.kind


def _fault(resource: ResourceKind) -> str | None:
    """Return why a kind cannot be registered."""
    kind = resource.kind
    if not kind.namespaced:
        return "it is cluster-scoped, and resources are namespaced"
    for known in {*KINDS.values(), *child_kinds()}:
        if taken := _names(known) & _names(kind):
            return f"{', '.join(sorted(taken))} is a name of {known.kind}"
    for other in RESOURCE_KINDS.values():
        if {other.label, other.suffix} & {resource.label, resource.suffix}:
            return f"it has the label or suffix of {other.kind.kind}"
    if RESOURCE_KINDS and not _is_suffix(resource.suffix):
        return f"the suffix {resource.suffix!r} is no word of letters and digits that only its children end in"
    for child in resource.children:
        # Their watches have a selector of their own: as children, the others of that kind would no longer be seen.
        if child in (kinds.POD, kinds.SECRET) or child.kind in (kind.kind, *RESOURCE_KINDS):
            return f"its children may not be of the kind {child.kind}"
        others = (*KINDS.values(), *child_kinds(), *resource.children)
        if any(known.kind == child.kind and known != child for known in others):
            return f"its child {child.api_version} {child.kind} has the name of another kind"
    return None


def _names(kind: Kind) -> set[str]:
    return {kind.kind.lower(), kind.plural, kind.singular, *kind.short_names}


def _is_suffix(word: str) -> bool:
    """Whether no name of a ModelDeployment's child ends in a word: in a component or a hash (`child_name`)."""
    components = (COMPONENT_RUNTIME, COMPONENT_FETCH, COMPONENT_STANDBY)
    return re.fullmatch(r"(?![0-9a-f]{8}$)[a-z][a-z0-9]{0,30}", word) is not None and word not in components


def user_kinds() -> dict[str, Kind]:
    """Return the kinds whose objects users make; the others are made by headrace and only read."""
    return {name: KINDS[name] for name in (*RESOURCE_KINDS, kinds.SECRET.kind, kinds.CONFIG_MAP.kind)}


def child_kinds() -> tuple[Kind, ...]:
    """Return the kinds of the children of all resources, each once."""
    return tuple(dict.fromkeys(child for resource in RESOURCE_KINDS.values() for child in resource.children))


def resource_labels() -> dict[str, str]:
    """Return, by kind of resource, the label that names it on its children and their pods."""
    return {name: resource.label for name, resource in RESOURCE_KINDS.items()}


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
