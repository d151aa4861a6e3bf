"""The local cluster: a world (`headrace.control.world`) whose pods are processes of this machine.

The user's objects are stored on disk. Their children are in memory and are made again at the next start, so conditions
are Unknown at first.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

from headrace.api import kinds
from headrace.api import vocabulary as v
from headrace.api.kinds import Kind
from headrace.control.keys import api_keys
from headrace.control.relations import Relations
from headrace.control.world import Changed, ChildRefused, not_ours
from headrace.errors import NotFound, SystemFault
from headrace.kinds.registry import RESOURCE_KINDS, resource_labels
from headrace.local.index import Change, ObjectIndex
from headrace.local.logs import check_log, read_log
from headrace.local.pods import Backoff
from headrace.local.store import Store, unobserved
from headrace.local.volumes import Directories, remove_files
from headrace.local.workloads import WORKLOADS, PodSet, check_workload, on_pod_change, reconcile_workload
from headrace.reconcile.conditions import timestamp
from headrace.reconcile.ownership import (
    controller_of,
    controls,
    is_child,
    is_pod_of,
    resource_controlling,
    resource_labelled,
)
from headrace.reconcile.world import Child, ChildKey, Conversion, Event, Manifest, ObjectKey, Observed, ResourceKey
from headrace.routes import KeyGrant

log = logging.getLogger(__name__)

CARRIED_OUT: dict[str, Kind] = {
    kind.kind: kind
    for kind in (kinds.DEPLOYMENT, kinds.DAEMON_SET, kinds.JOB, kinds.SERVICE, kinds.CONFIG_MAP, kinds.SECRET)
}
"""The kinds of children that exist here, by name; any other kind is refused."""
SKIPPED = frozenset({"PodDisruptionBudget", "NetworkPolicy", "ServiceAccount"})
"""Policies have no meaning where every pod is a process of one user."""
REFUSED_SECONDS = 5.0
"""When a child is applied again that was refused because another object has its name."""


class LocalCluster:
    """For use in one event loop. `start` reads the stored objects; `stop` ends every pod.

    `pods` is for the logs and volumes of pods alone; `start` removes what a killed instance left in it. No mount path
    replaces a path in `home`, that of headrace. `volumes` has the directory of each namespace's node agent socket.
    """

    def __init__(
        self,
        database: Path,
        pods: Path,
        backoff: Backoff | None = None,
        home: Path | None = None,
        volumes: Path | None = None,
    ) -> None:
        self.index = ObjectIndex()
        self._database = database
        self._pods_directory = pods
        self._store: Store | None = None
        self._pods = PodSet(self.index, Directories(home or pods, pods, volumes), backoff or Backoff())
        self._relations = Relations()
        self._stored: set[ObjectKey] = set()
        """The objects of users. None of them is a child, whatever its ownerReferences are."""
        self._changed: list[Changed] = []
        self._stopping = False
        self.index.listen(self._on_change)

    async def start(self) -> None:
        """Read the stored objects."""
        self._pods_directory.mkdir(parents=True, exist_ok=True)
        for left in self._pods_directory.iterdir():
            remove_files(left)
        self._store = Store(self._database)
        for manifest in self._store.objects():
            self._stored.add(ObjectKey.of(manifest))
            self.index.put(unobserved(manifest) if manifest["kind"] in RESOURCE_KINDS else manifest)
        for event in self._store.events():
            self.index.put(event)

    async def stop(self, grace_seconds: float) -> None:
        """Terminate every pod with its grace period, at most this one."""
        self._stopping = True
        ending = [asyncio.create_task(pod.gone()) for pod in self._pods.terminate()]
        if ending:
            _, late = await asyncio.wait(ending, timeout=grace_seconds)
            if late:
                self.kill()
                await asyncio.wait(late)
        if self._store is not None:
            self._store.close()

    def kill(self) -> None:
        """Kill every pod's process."""
        for pod in self._pods.all():
            pod.kill()

    # -- the user's objects ---------------------------------------------------------------------------------

    def apply_object(self, manifest: Manifest, *, dry_run: bool = False) -> tuple[Manifest, Manifest | None]:
        """Store an object of the user; return it, and the object before (None: it is new).

        Raises InvalidResource if it violates its schema or a rule.
        """
        before = self.index.get(ObjectKey.of(manifest))
        wanted = {name: value for name, value in manifest.items() if name != "status"}
        if (resource := RESOURCE_KINDS.get(manifest["kind"])) is not None:
            schema = resource.schema()
            schema.validate(manifest, before)
            wanted = schema.with_defaults(wanted)
        merged = _merged(wanted, before)
        if dry_run or merged == before:
            return merged, before
        assert self._store is not None
        self._store.put(merged)
        self._stored.add(ObjectKey.of(merged))
        return self.index.put(merged), before

    def delete_object(self, key: ObjectKey) -> None:
        """Delete an object of the user and what it controls, as the garbage collector of Kubernetes does."""
        found = self.index.get(key)
        if found is None:
            raise NotFound(f"{key.kind} {key.name} does not exist in namespace {key.namespace}")
        assert self._store is not None
        self._store.remove(key)
        self.index.remove(key)
        self._stored.discard(key)
        for kind in sorted(CARRIED_OUT):
            for child in self._made(kind, key.namespace):
                if controls(found, child):
                    self._remove_child(ObjectKey.of(child))

    def provide_secret(self, namespace: str, name: str, data: Mapping[str, str]) -> None:
        """Add a Secret of the platform to a namespace; it is not stored on disk."""
        encoded = {field: base64.b64encode(value.encode()).decode() for field, value in data.items()}
        metadata = {"name": name, "namespace": namespace, "labels": {v.MANAGED_BY: "headrace"}}
        manifest: Manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded}
        self.index.put(_merged(manifest, self.index.get(ObjectKey.of(manifest))))

    def logs(
        self, namespace: str, pod: str, *, follow: bool, tail_lines: int | None, previous: bool
    ) -> AsyncIterator[bytes]:
        """Yield the log of a pod. Raises NotFound if the pod does not exist, and NoLog if its container did not run."""
        found = self._pods.get(key := ObjectKey("Pod", namespace, pod))
        if found is None or (manifest := self.index.get(key)) is None:
            raise NotFound(f"pod {pod} does not exist in namespace {namespace}")
        path = found.previous_log if previous else found.log
        check_log(path, manifest, previous=previous)
        return read_log(path, tail_lines=tail_lines, follow=follow)

    # -- World -----------------------------------------------------------------------------------------------

    def subscribe(self, changed: Changed) -> None:
        """Call `changed` after every change from now on."""
        self._changed.append(changed)

    def keys(self) -> list[ResourceKey]:
        """Return every resource, and the owner of every cluster-scoped child whose owner no longer exists."""
        resources = [ResourceKey.of(each) for kind in sorted(RESOURCE_KINDS) for each in self.index.list(kind)]
        cluster_scoped = (kind.kind for kind in CARRIED_OUT.values() if not kind.namespaced)
        owners = {resource_controlling(child) for kind in cluster_scoped for child in self._made(kind)}
        return [*resources, *sorted(owner for owner in owners if owner is not None and owner not in resources)]

    def resource(self, key: ResourceKey) -> Manifest | None:
        """Return the resource."""
        return self.index.get(ObjectKey(key.kind, key.namespace, key.name))

    def observe(self, key: ResourceKey) -> Observed:
        """Return the children and pods of the resource."""
        resource = self.resource(key)
        children = {
            ChildKey.of(manifest): manifest
            for _, kind in sorted(CARRIED_OUT.items())
            for manifest in self._made(kind.kind, key.namespace if kind.namespaced else "")
            if is_child(manifest, key, resource)
        }
        return self._relations.observed(key, children, tuple(self._pods_of(key)), self.resource)

    def api_keys(self) -> Mapping[str, KeyGrant]:
        """Return what each API key opens."""
        return api_keys(self.index.list("Secret")).grants

    async def apply(self, owner: ResourceKey, child: Child) -> None:
        """Apply the child. Raises ChildRefused for an unsupported child, or if another owner's object has its name."""
        kind = child.key.kind
        if kind in SKIPPED or self._stopping:
            return
        if kind not in CARRIED_OUT:
            raise ChildRefused(f"local mode does not support the kind {kind}", hint="Use a Kubernetes cluster")
        resource = self.resource(owner)
        if resource is not None and not controls(resource, child.manifest):
            return  # of a pass that began before the resource was deleted and applied again
        key = ObjectKey.of(child.manifest)
        before = self.index.get(key)
        if key in self._stored or (before is not None and resource_controlling(before) != owner):
            raise ChildRefused(not_ours(child.key, owner), retry_seconds=REFUSED_SECONDS)
        merged = _merged(child.manifest, before)
        if merged == before:
            return
        if kind in WORKLOADS:
            check_workload(merged)
        self.index.put(merged)
        if kind in WORKLOADS:
            reconcile_workload(key, self._pods, self.index)

    async def delete(self, owner: ResourceKey, child: ChildKey) -> None:
        """Delete the child; its pods get their grace period."""
        key = ObjectKey(child.kind, child.namespace, child.name)
        found = self.index.get(key) if key not in self._stored else None
        if found is not None and is_child(found, owner, self.resource(owner)):
            self._remove_child(key)

    def _made(self, kind: str, namespace: str | None = None) -> Iterator[Manifest]:
        """Yield the objects of a kind that headrace made."""
        return (each for each in self.index.list(kind, namespace) if ObjectKey.of(each) not in self._stored)

    def _remove_child(self, key: ObjectKey) -> None:
        self.index.remove(key)
        for pod in self._pods.of(key):
            pod.terminate()

    async def set_routable(self, owner: ResourceKey, pods: frozenset[str]) -> None:
        """Set the readiness gate of the resource's pods."""
        for manifest in self._pods_of(owner):
            pod = self._pods.get(ObjectKey.of(manifest))
            if pod is not None:
                pod.set_gate(manifest["metadata"]["name"] in pods)

    async def convert(self, owner: ResourceKey, conversion: Conversion) -> str | None:
        """There are no standby pods: a pod's process may be a warm one from its start (`headrace.local.standby`)."""
        del owner, conversion
        return None

    def keep_objects(self, owner: ResourceKey, names: frozenset[str]) -> None:
        """The node agent here evicts the least recently used objects, whosever they are."""

    def _pods_of(self, key: ResourceKey) -> Iterator[Manifest]:
        labels = resource_labels()
        for pod in self.index.list("Pod", key.namespace):
            if is_pod_of(pod, key, self._workload_of(pod), labels):
                yield pod

    def _workload_of(self, pod: Manifest) -> Manifest | None:
        """Return the workload that controls a pod; None if it was deleted, even if another has its name now."""
        reference = controller_of(pod)
        assert reference is not None
        found = self.index.get(ObjectKey(reference["kind"], pod["metadata"]["namespace"], reference["name"]))
        return found if found is not None and controls(found, pod) else None

    async def write_status(self, key: ResourceKey, status: Manifest) -> None:
        """Write the status of the resource."""
        resource = self.resource(key)
        if resource is None or resource.get("status") == status or self._stopping:
            return
        stored = self.index.put({**resource, "status": status})
        assert self._store is not None
        with _tolerating_full_disk():
            self._store.put_status(stored)

    async def record(self, key: ResourceKey, event: Event) -> None:
        """Record an event; a repeated one is counted."""
        resource = self.resource(key)
        if resource is None or self._stopping:
            return
        name = f"{key.name}.{_digest(key.kind, event)}"
        before = self.index.get(ObjectKey("Event", key.namespace, name))
        now = timestamp(time.time())
        manifest: Manifest = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": key.namespace, "creationTimestamp": now},
            "involvedObject": {
                "apiVersion": v.API_VERSION,
                "kind": key.kind,
                "namespace": key.namespace,
                "name": key.name,
                "uid": resource["metadata"]["uid"],
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message,
            "count": 1 if before is None else before["count"] + 1,
            "firstTimestamp": now if before is None else before["firstTimestamp"],
            "lastTimestamp": now,
            "source": {"component": "headrace"},
        }
        self.index.put(manifest)
        assert self._store is not None
        with _tolerating_full_disk():
            for old in self._store.put_event(manifest):
                self.index.remove(old)

    def _on_change(self, change: Change) -> None:
        kind, metadata = change.object["kind"], change.object["metadata"]
        if kind in RESOURCE_KINDS:
            self._on_resource_change(change)
            return
        if kind == "Pod":
            self._on_pod_change(change)
        elif kind in ("Secret", "ConfigMap"):
            for pod in self._pods.all():
                if pod.key.namespace == metadata["namespace"]:
                    pod.on_config_change()
        if kind == "Secret" and _is_api_key(change):
            self._tell(None)
        if kind == "Pod":
            owner = resource_labelled(change.object, resource_labels())
        elif ObjectKey.of(change.object) in self._stored:
            owner = None
        else:
            owner = resource_controlling(change.object)
        if owner is not None:
            self._tell(owner)

    def _on_resource_change(self, change: Change) -> None:
        key = ResourceKey.of(change.object)
        self._tell(key)
        for other in self._relations.update(key, None if change.type == "DELETED" else change.object):
            self._tell(other)

    def _on_pod_change(self, change: Change) -> None:
        reference = change.object["metadata"]["ownerReferences"][0]
        owner = ObjectKey(reference["kind"], change.object["metadata"]["namespace"], reference["name"])
        if change.type == "DELETED":
            self._pods.forget(ObjectKey.of(change.object))
        if not self._stopping:
            on_pod_change(owner, self._pods, self.index, removed=change.type == "DELETED")

    def _tell(self, key: ResourceKey | None) -> None:
        for changed in self._changed:
            changed(key)


@contextlib.contextmanager
def _tolerating_full_disk() -> Iterator[None]:
    """A status or an event is not stored when the disk is full; it stays in memory, and the cluster keeps running."""
    try:
        yield
    except SystemFault as error:
        log.warning("a status or an event is not stored: %s", error)


def _merged(wanted: Manifest, before: Manifest | None) -> Manifest:
    """Return the object with the fields that a server adds: uid, time, and a generation that counts changes of spec."""
    metadata: dict[str, Any] = {
        name: value
        for name, value in wanted["metadata"].items()
        if name in ("name", "namespace", "labels", "annotations", "ownerReferences")
    }
    if before is None:
        added = {"uid": secrets.token_hex(16), "creationTimestamp": timestamp(time.time()), "generation": 1}
        return {**wanted, "metadata": {**metadata, **added}}
    known = before["metadata"]
    changed = wanted.get("spec") != before.get("spec")
    added = {
        "uid": known["uid"],
        "creationTimestamp": known["creationTimestamp"],
        "generation": known["generation"] + changed,
        "resourceVersion": known["resourceVersion"],
    }
    merged = {**wanted, "metadata": {**metadata, **added}}
    if "status" in before:
        merged["status"] = before["status"]
    return merged


def _is_api_key(change: Change) -> bool:
    """Whether the Secret is, or was before the change, an API key."""
    return any(
        v.API_KEY_LABEL in manifest["metadata"].get("labels", {})
        for manifest in (change.object, change.before)
        if manifest is not None
    )


def _digest(kind: str, event: Event) -> str:
    """Return a name for equal events of one resource."""
    return hashlib.sha256(f"{kind}{event.type}{event.reason}{event.message}".encode()).hexdigest()[:16]
