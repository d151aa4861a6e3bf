"""Which ModelDeployment of a namespace fetches a source that several have. Pure.

One fetches, so that fifty models of one source are one fetch. The chosen one stays for as long as it has the source,
its spec is accepted, its reconcile passes succeed and it is not being deleted. Next comes one whose file is verified
already, then the oldest.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from headrace.api import vocabulary as v
from headrace.reconcile.world import Manifest, ResourceKey


@dataclass(frozen=True, slots=True)
class _Source:
    """A source as a spec names it, in a namespace."""

    namespace: str
    uri: str
    digest: str


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a resource has to do with a source."""

    source: _Source
    cached: tuple[str, ...]
    """What its followers take over of its condition ModelCached: without the progress, which changes often."""
    seniority: tuple[str, str]


class Fetchers:
    """Who fetches which source, kept up to date."""

    def __init__(self) -> None:
        self._claims: dict[ResourceKey, _Claim] = {}
        self._by_source: dict[_Source, set[ResourceKey]] = defaultdict(set)
        self._chosen: dict[_Source, ResourceKey] = {}

    def update(self, key: ResourceKey, manifest: Manifest | None) -> set[ResourceKey]:
        """Take in a resource as it is now (None: it is gone); return those that waited for what it fetches."""
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
        """Return who fetches the source of a resource; None when that is itself, or it has none."""
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
    """Return a resource's claim; None when it has no source, or cannot fetch it for others."""
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
    told = tuple(str(cached.get(field, "")) for field in ("status", "reason", "message"))
    return _Claim(
        source=_Source(key.namespace, str(source.get("uri")), str(source.get("digest") or "")),
        cached=told[:2] if cached.get("reason") == v.FETCHING else told,
        seniority=(metadata.get("creationTimestamp") or "", metadata["name"]),
    )
