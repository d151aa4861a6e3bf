"""Relations between resources: which others a change affects, and what a rule observes of them. Pure.

A change of a resource affects those that refer to it (`ResourceKind.references`), and those that the observer of its
kind returns (`headrace.kinds.controller.Observer`). Both worlds use this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from headrace.kinds.controller import Observer
from headrace.kinds.registry import RESOURCE_KINDS
from headrace.reconcile.world import ChildKey, Manifest, Observed, ResourceKey


class References:
    """Index of references between resources, in both directions."""

    def __init__(self) -> None:
        self._of: dict[ResourceKey, frozenset[ResourceKey]] = {}
        self._to: dict[ResourceKey, set[ResourceKey]] = {}

    def set(self, key: ResourceKey, referenced: Iterable[ResourceKey]) -> None:
        """Replace the references of a resource. A referenced resource need not exist."""
        before, now = self.of(key), frozenset(referenced)
        for each in before - now:
            self._to[each].discard(key)
            if not self._to[each]:
                del self._to[each]
        for each in now - before:
            self._to.setdefault(each, set()).add(key)
        if now:
            self._of[key] = now
        else:
            self._of.pop(key, None)

    def of(self, key: ResourceKey) -> frozenset[ResourceKey]:
        """Return the resources that a resource refers to."""
        return self._of.get(key, frozenset())

    def to(self, key: ResourceKey) -> frozenset[ResourceKey]:
        """Return the resources that refer to a resource."""
        return frozenset(self._to.get(key, ()))


class Relations:
    """References and observers of a world, which updates them."""

    def __init__(self) -> None:
        self._references = References()
        self._observers: dict[str, Observer] = {
            name: make()
            for name, resource in RESOURCE_KINDS.items()
            if (make := resource.controller().observer) is not None
        }

    def update(self, key: ResourceKey, manifest: Manifest | None) -> list[ResourceKey]:
        """Update with the present state of a resource (None: deleted); return the other affected ones, sorted."""
        referenced = () if manifest is None else RESOURCE_KINDS[key.kind].references(manifest)
        self._references.set(key, referenced)
        observer = self._observers.get(key.kind)
        affected = set() if observer is None else observer.update(key, manifest)
        return sorted((affected | self._references.to(key)) - {key})

    def observed(
        self,
        key: ResourceKey,
        children: dict[ChildKey, Manifest],
        pods: tuple[Manifest, ...],
        resource: Callable[[ResourceKey], Manifest | None],
    ) -> Observed:
        """Return the observed state of a resource: children, pods, and other resources that affect it.

        Args:
            key: the resource.
            children: its children.
            pods: the pods of its children.
            resource: looks up a resource by its key.
        """
        found = {each: resource(each) for each in sorted(self._references.of(key))}
        observer = self._observers.get(key.kind)
        return Observed(
            children,
            pods,
            references={each: manifest for each, manifest in found.items() if manifest is not None},
            peers=None if observer is None else observer.peers(key, resource),
        )
