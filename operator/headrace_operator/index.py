"""Every object that concerns us, in memory: small, and always what the API server last said.

A body is kept as JSON without what nobody here reads (managed fields, a pod's spec), and decoded when it is looked at:
as Python dictionaries, 8,000 objects are 80 MB, as JSON 12. Beside it lies a digest of what an operator writes of an
object, by which a change by somebody else is told from the status updates of its controller.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from headrace.api.vocabulary import GROUP, MODEL_LABEL
from headrace.reconcile.world import Manifest, ResourceKey

_OF_METADATA = frozenset(
    {
        *("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp"),
        *("labels", "annotations", "ownerReferences"),
    }
)
_NOT_OURS = frozenset({"status", "metadata", "apiVersion", "kind"})


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """Names an object."""

    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, manifest: Manifest) -> ObjectKey:
        """Return the key of an object."""
        return cls(manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"])


@dataclass(frozen=True, slots=True)
class Entry:
    """One object."""

    body: bytes
    uid: str
    version: int
    """resourceVersion. An API server's are numbers that grow (etcd's revisions), and since Kubernetes 1.35 must be."""
    digest: str
    """Of what an operator writes; see `digest_of`."""
    owner: ResourceKey | None

    @property
    def manifest(self) -> Manifest:
        """The object."""
        decoded: Manifest = json.loads(self.body)
        return decoded


Changed = Callable[[ObjectKey, Entry | None, Entry | None], None]
"""Called with an object's key, its entry before (None: it is new), and its entry now (None: it is gone)."""


class Index:
    """See the module. Not for several threads."""

    def __init__(self, changed: Changed) -> None:
        self._changed = changed
        self._entries: dict[ObjectKey, Entry] = {}
        self._kinds: dict[str, dict[ObjectKey, None]] = defaultdict(dict)
        self._owned: dict[ResourceKey, dict[ObjectKey, None]] = defaultdict(dict)
        self._gone: dict[str, None] = {}
        """Uids of deleted objects: an answer to our own write may arrive after the news of the deletion."""

    def entry(self, key: ObjectKey) -> Entry | None:
        """Return an object's entry."""
        return self._entries.get(key)

    def get(self, key: ObjectKey) -> Manifest | None:
        """Return an object."""
        entry = self._entries.get(key)
        return None if entry is None else entry.manifest

    def keys(self, kind: str) -> list[ObjectKey]:
        """Return the keys of a kind's objects."""
        return list(self._kinds[kind])

    def list(self, kind: str, namespace: str | None = None) -> list[Manifest]:
        """Return the objects of a kind, of one namespace or (None) of all."""
        return [self._entries[key].manifest for key in self._kinds[kind] if namespace in (None, key.namespace)]

    def owned(self, owner: ResourceKey) -> Iterator[tuple[ObjectKey, Entry]]:
        """Yield the objects that carry the label of a ModelDeployment."""
        for key in sorted(self._owned.get(owner, ())):
            yield key, self._entries[key]

    def put(self, manifest: Manifest) -> None:
        """Take in an object as the API server gave it; older news than what is known is no news."""
        key, entry = ObjectKey.of(manifest), _entry(manifest)
        before = self._entries.get(key)
        known = before is not None and before.version >= entry.version  # also across lives: versions are the cluster's
        if known or entry.uid in self._gone:
            return
        self._entries[key] = entry
        self._kinds[key.kind][key] = None
        if before is not None and before.owner is not None and before.owner != entry.owner:
            self._owned[before.owner].pop(key, None)
        if entry.owner is not None:
            self._owned[entry.owner][key] = None
        self._changed(key, before, entry)

    def remove(self, key: ObjectKey, uid: str) -> None:
        """Forget an object that was deleted; one of the same name that came after it stays."""
        self._gone[uid] = None
        while len(self._gone) > MAX_GONE:
            self._gone.pop(next(iter(self._gone)))
        entry = self._entries.get(key)
        if entry is None or entry.uid != uid:
            return
        del self._entries[key]
        self._kinds[key.kind].pop(key, None)
        if entry.owner is not None:
            self._owned[entry.owner].pop(key, None)
            if not self._owned[entry.owner]:
                del self._owned[entry.owner]
        self._changed(key, entry, None)

    def sizes(self) -> dict[str, int]:
        """Return how many objects of each kind there are."""
        return {kind: len(keys) for kind, keys in self._kinds.items()}


MAX_GONE = 10_000
"""Uids remembered: far more than are deleted in the time of one request."""


def digest_of(manifest: Manifest) -> str:
    """Return a digest of what an operator writes of an object: all but status and what others add to metadata."""
    metadata = manifest["metadata"]
    ours = {
        "labels": metadata.get("labels", {}),
        "annotations": {
            name: value for name, value in metadata.get("annotations", {}).items() if name.startswith(f"{GROUP}/")
        },
        "owners": sorted(reference["uid"] for reference in metadata.get("ownerReferences", [])),
        **{field: value for field, value in manifest.items() if field not in _NOT_OURS},
    }
    return hashlib.sha256(_json(ours)).hexdigest()[:16]


def _entry(manifest: Manifest) -> Entry:
    metadata = manifest["metadata"]
    model = metadata.get("labels", {}).get(MODEL_LABEL)
    kept = {
        **{field: value for field, value in manifest.items() if not (field == "spec" and manifest["kind"] == "Pod")},
        "metadata": {field: value for field, value in metadata.items() if field in _OF_METADATA},
    }
    return Entry(
        body=_json(kept),
        uid=metadata["uid"],
        version=int(metadata["resourceVersion"]),
        digest=digest_of(kept),
        owner=ResourceKey(metadata["namespace"], model) if model is not None else None,
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
