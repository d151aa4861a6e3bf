"""Which ModelDeployment of a namespace has a public name. Pure.

A public name belongs to the resource that was accepted with it (`status.publicName`) until that one takes another name
or goes; age decides only among those that have not got it yet. So nothing that is applied puts a served model off the
air.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from headrace.api import vocabulary as v
from headrace.reconcile.world import Manifest, ResourceKey


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a resource has to do with names."""

    held: str | None
    wanted: str | None
    seniority: tuple[str, str]

    @classmethod
    def of(cls, manifest: Manifest) -> _Claim:
        metadata = manifest["metadata"]
        return cls(_held(manifest), _wanted(manifest), (metadata["creationTimestamp"], metadata["name"]))

    @property
    def names(self) -> set[str]:
        return {name for name in (self.held, self.wanted) if name is not None}


class Names:
    """Who has and wants which public name, kept up to date: a look asks for one of perhaps thousands of resources."""

    def __init__(self) -> None:
        self._claims: dict[ResourceKey, _Claim] = {}
        self._by_name: dict[tuple[str, str], set[ResourceKey]] = defaultdict(set)

    def update(self, key: ResourceKey, manifest: Manifest | None) -> set[ResourceKey]:
        """Take in a resource as it is now (None: it is gone); return the others that its change concerns."""
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
        """Return those of the names that a resource has or wants which others have before it, and who that is."""
        mine = self._claims.get(key)
        if mine is None:
            return {}
        others = ((name, self._before(key, mine, name)) for name in mine.names)
        return {name: other for name, other in others if other is not None}

    def _before(self, key: ResourceKey, mine: _Claim, name: str) -> str | None:
        """Return the resource that has a name before another: who holds it, else the oldest that wants it."""
        claims = {other: self._claims[other] for other in self._by_name[key.namespace, name] - {key}}
        ahead = [other for other, claim in claims.items() if _first(claim, mine, name)]
        first = min(ahead, key=lambda other: (claims[other].held != name, claims[other].seniority), default=None)
        return None if first is None else first.name


def _first(other: _Claim, mine: _Claim, name: str) -> bool:
    """Whether the other has the name before me."""
    older = other.seniority < mine.seniority
    if other.held == name:
        return mine.held != name or older
    return mine.held != name and older


def _held(manifest: Manifest) -> str | None:
    held = manifest.get("status", {}).get("publicName")
    return None if held is None else str(held)


def _wanted(manifest: Manifest) -> str | None:
    """Return the name that a resource waits for; None when it is refused for its own faults."""
    for condition in manifest.get("status", {}).get("conditions", []):
        refused = condition["type"] == v.ACCEPTED and condition["status"] == "False"
        if refused and condition["reason"] != v.NAME_TAKEN:
            return None
    model = manifest.get("spec", {}).get("model")
    named = model.get("name") if isinstance(model, dict) else None
    return str(named or manifest["metadata"]["name"])
