"""An API server of dictionaries: keeps what is written, adds what a server adds, and refuses when it is told to."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import AsyncIterator
from typing import Any

from headrace.api.vocabulary import FIELD_MANAGER
from headrace.reconcile.world import Manifest
from headrace_operator.client import NOT_FOUND, ApiError, Change
from headrace_operator.kinds import Watched


class RecordingApi:
    """Answers writes like an API server with defaults, and keeps them. `errors` are raised by the next writes."""

    def __init__(self) -> None:
        self.objects: dict[str, Manifest] = {}
        self.writes: list[tuple[str, str]] = []
        self.bodies: list[Any] = []
        self.errors: list[ApiError] = []
        self.forced: list[bool] = []
        self.found: list[Manifest] = []
        """What the next selections find."""
        self.selected: list[str] = []
        """By which fields of which collection."""
        self.happened: asyncio.Queue[Change] = asyncio.Queue()
        """What the watch of logins tells."""
        self._versions = itertools.count(1000)

    async def get(self, path: str) -> Manifest:
        if path not in self.objects:
            raise ApiError(NOT_FOUND, "not found")
        return copy.deepcopy(self.objects[path])

    async def select(self, path: str, fields: str) -> list[Manifest]:
        self.selected.append(f"{path}?{fields}")
        if self.errors:
            raise self.errors.pop(0)
        return copy.deepcopy(self.found)

    async def changes(self, watched: Watched, namespace: str | None, name: str) -> AsyncIterator[Change]:
        while True:
            yield await self.happened.get()

    async def apply(self, path: str, manifest: Manifest, *, force: bool) -> Manifest:
        self.forced.append(force)
        self._write("apply", path, manifest)
        spec = {**manifest.get("spec", {}), "defaulted": True}
        metadata = {**manifest["metadata"], "managedFields": [{"manager": FIELD_MANAGER, "operation": "Apply"}]}
        return self._keep(path, {**manifest, "spec": spec, "metadata": metadata})

    async def merge(self, path: str, patch: Manifest) -> Manifest:
        self._write("merge", path, patch)
        return self._keep(path, _merged(self.objects.get(path, {"metadata": {}}), patch))

    async def merge_lists(self, path: str, patch: Manifest) -> Manifest:
        self._write("merge_lists", path, patch)
        of = path.removesuffix("/status")
        return self._keep(of, {**self.objects[of], "status": patch["status"]})

    async def replace_status(self, path: str, uid: str, status: Manifest) -> Manifest:
        self._write("status", path, status)
        return self._keep(path, {**self.objects[path], "status": status})

    async def create(self, path: str, manifest: Manifest) -> Manifest:
        self._write("create", path, manifest)
        return manifest

    async def delete(self, path: str, *, uid: str | None = None) -> None:
        self._write("delete", path, uid)

    def _write(self, verb: str, path: str, body: Any) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.writes.append((verb, path))
        self.bodies.append(body)

    def _keep(self, path: str, manifest: Manifest) -> Manifest:
        before = self.objects.get(path, {}).get("metadata", {})
        added = {"uid": before.get("uid", f"uid-{path}"), "resourceVersion": str(next(self._versions))}
        self.objects[path] = {**manifest, "metadata": {**manifest["metadata"], **added}}
        return copy.deepcopy(self.objects[path])


def _merged(value: Manifest, patch: Manifest) -> Manifest:
    """Return what RFC 7396 makes of a value."""
    merged = {**value}
    for field, change in patch.items():
        if change is None:
            merged.pop(field, None)
        else:
            merged[field] = _merged(merged.get(field, {}), change) if isinstance(change, dict) else change
    return merged
