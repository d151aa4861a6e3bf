"""References of a resource to others, by fields of its spec."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from headrace.kinds.columns import Object

if TYPE_CHECKING:
    from headrace.reconcile.world import ResourceKey


def named_in(field: str, kind: str) -> Callable[[Object], Iterable[ResourceKey]]:
    """Return a `ResourceKind.references` for a field of the spec that names a resource of that kind and namespace.

    A resource without a readable field refers to none.
    """

    def references(manifest: Object) -> Iterable[ResourceKey]:
        from headrace.reconcile.world import ResourceKey  # noqa: PLC0415 - pydantic; see ResourceKind.schema

        spec = manifest.get("spec")
        name = spec.get(field) if isinstance(spec, dict) else None
        return (ResourceKey(kind, manifest["metadata"]["namespace"], name),) if isinstance(name, str) else ()

    return references
