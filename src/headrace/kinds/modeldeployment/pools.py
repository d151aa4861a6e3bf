"""Selection of the ModelDeployment whose child the pool of standby pods of several is. Pure.

A standby pod becomes a replica of any model of its namespace that has the same program: runtime type, pod template,
claim of the source and drain timeout. The oldest resource with a program has the pool as a child while it keeps
processes, its spec is accepted and it is not being deleted.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass

from headrace.api import vocabulary as v
from headrace.reconcile.world import Manifest, ResourceKey
from headrace.sources.location import claim_of


@dataclass(frozen=True, slots=True)
class _Program:
    """What the pods of several models have in common, in a namespace."""

    namespace: str
    content: str


@dataclass(frozen=True, slots=True)
class _Claim:
    program: _Program
    seniority: tuple[str, str]


class Pools:
    """The resource with the pool of each program, updated with each change of a resource."""

    def __init__(self) -> None:
        self._claims: dict[ResourceKey, _Claim] = {}
        self._by_program: dict[_Program, set[ResourceKey]] = defaultdict(set)

    def update(self, key: ResourceKey, manifest: Manifest | None) -> set[ResourceKey]:
        """Update with the present state of a resource (None: deleted); return the others whose pool is another one."""
        before, now = self._claims.pop(key, None), None if manifest is None else _claim(manifest)
        if now == before:
            if now is not None:
                self._claims[key] = now
            return set()
        changed: set[ResourceKey] = set()
        if before is not None:
            members = self._by_program[before.program]
            members.discard(key)
            changed |= members
            if not members:
                del self._by_program[before.program]
        if now is not None:
            self._claims[key] = now
            changed |= self._by_program[now.program]
            self._by_program[now.program].add(key)
        return changed

    def of(self, key: ResourceKey) -> ResourceKey | None:
        """Return the resource that has the pool of a resource; None if that one keeps no processes."""
        claim = self._claims.get(key)
        if claim is None:
            return None
        return min(self._by_program[claim.program], key=lambda member: self._claims[member].seniority)


def _claim(manifest: Manifest) -> _Claim | None:
    """Return a resource's claim; None if it keeps no processes."""
    metadata, spec = manifest["metadata"], manifest.get("spec", {})
    conditions = {each["type"]: each["status"] for each in manifest.get("status", {}).get("conditions", [])}
    keep = _at(spec, "scaling", "coldStart", "keep")
    if metadata.get("deletionTimestamp") or keep != v.KEEP_PROCESS or conditions.get(v.ACCEPTED) == "False":
        return None
    uri = _at(spec, "model", "source", "uri")
    parts = [
        _at(spec, "runtime", "type"),
        spec.get("template"),
        _at(spec, "rollout", "drainTimeoutSeconds"),
        claim_of(uri) if isinstance(uri, str) else None,
    ]
    program = _Program(metadata["namespace"], json.dumps(parts, sort_keys=True))
    return _Claim(program, (metadata.get("creationTimestamp") or "", metadata["name"]))


def _at(value: object, *path: str) -> object:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value
