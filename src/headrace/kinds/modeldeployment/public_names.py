"""Assignment of public names to the ModelDeployments of a namespace. Pure.

The names of a resource are the public name of its model and those of its LoRA adapters (`model:adapter`).

A public name belongs to the resource that was accepted with it (`status.publicName`) until that resource takes another
name or is deleted. Among resources that wait for a name, the oldest gets it. So applying another resource never makes a
served model unavailable.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.resource import ADAPTER_SEPARATOR
from headrace.reconcile.world import Manifest, ResourceKey


@dataclass(frozen=True, slots=True)
class _Claim:
    """The public names that a resource has and requests."""

    held: frozenset[str]
    requested: frozenset[str]
    seniority: tuple[str, str]

    @classmethod
    def of(cls, manifest: Manifest) -> _Claim:
        metadata = manifest["metadata"]
        return cls(_held(manifest), _requested(manifest), (metadata["creationTimestamp"], metadata["name"]))

    @property
    def names(self) -> frozenset[str]:
        return self.held | self.requested


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
        old, new = (frozenset[str]() if claim is None else claim.names for claim in (before, now))
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
        first = min(ahead, key=lambda other: (name not in claims[other].held, claims[other].seniority), default=None)
        return None if first is None else first.name


def _first(other: _Claim, mine: _Claim, name: str) -> bool:
    """Whether the other resource has precedence for the name."""
    older = other.seniority < mine.seniority
    if name in other.held:
        return name not in mine.held or older
    return name not in mine.held and older


def _held(manifest: Manifest) -> frozenset[str]:
    status = manifest.get("status", {})
    held = status.get("publicName")
    return frozenset() if held is None else _names(str(held), status.get("adapters"))


def _requested(manifest: Manifest) -> frozenset[str]:
    """Return the names that a resource requests; none if its spec is rejected for another reason."""
    for condition in manifest.get("status", {}).get("conditions", []):
        refused = condition["type"] == v.ACCEPTED and condition["status"] == "False"
        if refused and condition["reason"] != v.NAME_TAKEN:
            return frozenset()
    model, runtime = (_object(manifest.get("spec"), field) for field in ("model", "runtime"))
    return _names(str(model.get("name") or manifest["metadata"]["name"]), _object(runtime, "llm").get("adapters"))


def _names(public_name: str, adapters: object) -> frozenset[str]:
    """Return the public names of a model and its adapters, as the manifest lists them; it may be invalid."""
    listed = adapters if isinstance(adapters, list) else []
    named = (str(each["name"]) for each in listed if isinstance(each, dict) and "name" in each)
    return frozenset((public_name, *(f"{public_name}{ADAPTER_SEPARATOR}{name}" for name in named)))


def _object(parent: object, field: str) -> Manifest:
    """Return a field of a manifest that may be invalid; empty if it is no object."""
    found = parent.get(field) if isinstance(parent, dict) else None
    return found if isinstance(found, dict) else {}
