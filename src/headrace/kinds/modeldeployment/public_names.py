"""Assignment of public names to the ModelDeployments of a namespace. Pure.

A public name belongs to the resource that was accepted with it (`status.publicName`) until that resource takes another
name or is deleted. Among resources that wait for a name, the oldest gets it. So applying another resource never makes a
served model unavailable.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from headrace.api import vocabulary as v
from headrace.reconcile.world import Manifest, ResourceKey


@dataclass(frozen=True, slots=True)
class _Claim:
    """The public names that a resource has and requests."""

    held: str | None
    requested: str | None
    seniority: tuple[str, str]

    @classmethod
    def of(cls, manifest: Manifest) -> _Claim:
        metadata = manifest["metadata"]
        return cls(_held(manifest), _requested(manifest), (metadata["creationTimestamp"], metadata["name"]))

    @property
    def names(self) -> set[str]:
        return {name for name in (self.held, self.requested) if name is not None}


class Names:
    """Index of the public names that resources have and request, because a reconcile pass must not scan thousands."""

    def __init__(self) -> None:
        self._claims: dict[ResourceKey, _Claim] = {}
        self._by_name: dict[tuple[str, str], set[ResourceKey]] = defaultdict(set)

    def update(self, key: ResourceKey, manifest: Manifest | None) -> set[ResourceKey]:
        """Update with the present state of a resource (None: deleted); return the others that the change affects."""
        before = self._claims.pop(key, None)
        now = None if manifest is None else _Claim.of(manifest)
        if now is not None:
            self._claims[key] = now
        old, new = (set() if claim is None else claim.names for claim in (before, now))
        for name in old - new:
            self._by_name[key.namespace, name].discard(key)
            if not self._by_name[key.namespace, name]:
                del self._by_name[key.namespace, name]
        for name in new - old:
            self._by_name[key.namespace, name].add(key)
        if before == now:
            return set()
        return {other for name in old | new for other in self._by_name.get((key.namespace, name), ())} - {key}

    def taken(self, key: ResourceKey) -> dict[str, str]:
        """Return the names that a resource has or requests but another one owns, with the name of the owner."""
        mine = self._claims.get(key)
        if mine is None:
            return {}
        others = ((name, self._before(key, mine, name)) for name in mine.names)
        return {name: other for name, other in others if other is not None}

    def _before(self, key: ResourceKey, mine: _Claim, name: str) -> str | None:
        """Return the resource with precedence over `mine`: the holder of the name, else the oldest that requests it."""
        claims = {other: self._claims[other] for other in self._by_name[key.namespace, name] - {key}}
        ahead = [other for other, claim in claims.items() if _first(claim, mine, name)]
        first = min(ahead, key=lambda other: (claims[other].held != name, claims[other].seniority), default=None)
        return None if first is None else first.name


def _first(other: _Claim, mine: _Claim, name: str) -> bool:
    """Whether the other resource has precedence for the name."""
    older = other.seniority < mine.seniority
    if other.held == name:
        return mine.held != name or older
    return mine.held != name and older


def _held(manifest: Manifest) -> str | None:
    held = manifest.get("status", {}).get("publicName")
    return None if held is None else str(held)


def _requested(manifest: Manifest) -> str | None:
    """Return the name that a resource requests; None if its spec is rejected for another reason."""
    for condition in manifest.get("status", {}).get("conditions", []):
        refused = condition["type"] == v.ACCEPTED and condition["status"] == "False"
        if refused and condition["reason"] != v.NAME_TAKEN:
            return None
    model = manifest.get("spec", {}).get("model")
    named = model.get("name") if isinstance(model, dict) else None
    return str(named or manifest["metadata"]["name"])
