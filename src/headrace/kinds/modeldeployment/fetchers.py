"""Selection of the ModelDeployment that fetches a source shared by several in a namespace. Pure.

One resource fetches for all, so fifty models of one source need one fetch. It stays selected while it has the source,
its spec is accepted, its reconcile passes succeed and it is not being deleted. A resource whose file is already
verified is preferred, then the oldest.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from headrace.api import vocabulary as v
from headrace.reconcile.world import Manifest, ResourceKey


@dataclass(frozen=True, slots=True)
class _Source:
    """A source of a spec, in a namespace."""

    namespace: str
    uri: str
    digest: str


@dataclass(frozen=True, slots=True)
class _Claim:
    """A resource that has a source and can fetch it."""

    source: _Source
    cached: tuple[str, ...]
    """Its condition ModelCached as resources with the same source copy it: without progress, which changes often."""
    seniority: tuple[str, str]


class Fetchers:
    """The fetching resource of each source, updated with each change of a resource."""

    def __init__(self) -> None:
        self._claims: dict[ResourceKey, _Claim] = {}
        self._by_source: dict[_Source, set[ResourceKey]] = defaultdict(set)
        self._chosen: dict[_Source, ResourceKey] = {}

    def update(self, key: ResourceKey, manifest: Manifest | None) -> set[ResourceKey]:
        """Update with the present state of a resource (None: deleted); return those that wait for its fetch."""
        before, now = self._claims.pop(key, None), None if manifest is None else _claim(key, manifest)
        if now is not None:
            self._claims[key] = now
            self._by_source[now.source].add(key)
        if before is None or before == now or self._chosen.get(before.source) != key:
            waited: set[ResourceKey] = set()
        else:
            waited = self._by_source[before.source] - {key}
        if before is not None and (now is None or now.source != before.source):
            self._leave(key, before.source)
        return waited

    def other(self, key: ResourceKey) -> ResourceKey | None:
        """Return the other resource that fetches a resource's source; None if it fetches itself or has no source."""
        claim = self._claims.get(key)
        if claim is None:
            return None
        chosen = self._chosen.get(claim.source)
        if chosen is None:
            chosen = self._chosen[claim.source] = min(self._by_source[claim.source], key=self._rank)
        return None if chosen == key else chosen

    def _rank(self, key: ResourceKey) -> tuple[bool, tuple[str, str]]:
        claim = self._claims[key]
        return claim.cached[:1] != ("True",), claim.seniority

    def _leave(self, key: ResourceKey, source: _Source) -> None:
        self._by_source[source].discard(key)
        if not self._by_source[source]:
            del self._by_source[source]
        if self._chosen.get(source) == key:
            del self._chosen[source]


def _claim(key: ResourceKey, manifest: Manifest) -> _Claim | None:
    """Return a resource's claim; None if it has no source or cannot fetch for others."""
    metadata = manifest["metadata"]
    if metadata.get("deletionTimestamp"):
        return None
    model = manifest.get("spec", {}).get("model")
    source = model.get("source") if isinstance(model, dict) else None
    conditions = {each["type"]: each for each in manifest.get("status", {}).get("conditions", [])}
    if not isinstance(source, dict) or conditions.get(v.ACCEPTED, {}).get("status") == "False":
        return None
    cached = conditions.get(v.MODEL_CACHED, {})
    if conditions.get(v.PROGRESSING, {}).get("reason") == v.RECONCILE_FAILED and cached.get("status") != "True":
        return None
    condition = tuple(str(cached.get(field, "")) for field in ("status", "reason", "message"))
    return _Claim(
        source=_Source(key.namespace, str(source.get("uri")), str(source.get("digest") or "")),
        cached=condition[:2] if cached.get("reason") == v.FETCHING else condition,
        seniority=(metadata.get("creationTimestamp") or "", metadata["name"]),
    )
