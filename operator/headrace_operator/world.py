"""The Kubernetes implementation of `headrace.control.world`: reads from the index, writes by server-side apply.

An unchanged child is not written. The API server adds defaults, so desired and observed state cannot be compared field
by field. Instead two digests of each apply are kept: of the desired manifest, and of the object in the response. The
child is applied again when either differs: the desired state or the object has changed. After a restart each child is
applied once, which changes nothing.

A child is an object that a resource *controls* (`headrace.reconcile.ownership`). So another owner's object with a
child's name is never taken over, and objects left by `kubectl delete --cascade=orphan` are not touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeGuard

from headrace.api import vocabulary as v
from headrace.control.keys import api_keys
from headrace.control.relations import Relations
from headrace.control.world import Changed, ChildRefused, not_ours
from headrace.errors import HeadraceError
from headrace.kinds.registry import RESOURCE_KINDS, resource_labels
from headrace.reconcile.conditions import timestamp
from headrace.reconcile.ownership import controls, is_child, is_of_another, is_pod_of, resource_controlling
from headrace.reconcile.world import Child, ChildKey, Conversion, Event, Manifest, ObjectKey, Observed, ResourceKey
from headrace.routes import KeyGrant
from headrace_operator.client import (
    BAD_REQUEST,
    CONFLICT,
    FORBIDDEN,
    INVALID,
    NOT_FOUND,
    TOO_LARGE,
    UNREACHABLE,
    ApiError,
    ApiServer,
)
from headrace_operator.events import Recorder
from headrace_operator.index import Entry, Index, digest, digest_of, without_claim, workload_of
from headrace_operator.job_events import JobEvents
from headrace_operator.kept_objects import KeptObjects
from headrace_operator.key_warnings import KeyWarnings
from headrace_operator.kinds import POD, watched_children, watched_kinds
from headrace_operator.metrics import SKIPPED
from headrace_operator.namespaces import Namespaces
from headrace_operator.standby import candidates, convert

REFUSALS = frozenset({BAD_REQUEST, FORBIDDEN, TOO_LARGE, INVALID})
"""Statuses of permanent rejections by the API server, a policy or a quota."""
TEMPORARY_ERROR_SECONDS = 2.5
"""Any other error may be temporary: it counts as a rejection only after this time."""
REFUSED_SECONDS = 5.0
"""First interval between two attempts of a rejected apply; it doubles each time."""
LONGEST_REFUSED_SECONDS = 60.0


class NotOurs(HeadraceError):
    """An object with the name of a child belongs to another owner."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A rejected apply of a child."""

    wanted: str
    """Digest of the desired manifest."""
    why: str
    seconds: float
    """Interval until the next attempt."""
    until: float
    """Monotonic time of the next attempt."""


class KubernetesWorld:
    """See the module. `namespaces` restrict the operator; empty: not restricted."""

    def __init__(
        self,
        api: ApiServer,
        pod_name: str,
        namespaces: tuple[str, ...] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.index = Index(self._on_change)
        self._api = api
        self._restricted_to = namespaces
        self._clock = clock
        self._recorder = Recorder(api, pod_name)
        self._job_events = JobEvents(api, clock)
        self.kept_objects = KeptObjects(api, self._reconciled)
        self.key_warnings = KeyWarnings(self.index, self._recorder)
        self._relations = Relations()
        self._watched = watched_kinds()
        self._child_kinds = frozenset(each.kind for each in watched_children())
        self._kinds_with_pods = frozenset(name for name, resource in RESOURCE_KINDS.items() if resource.has_pods)
        self._need_namespaces = self._kinds_with_pods | {POD.kind}
        self._namespaces: Namespaces | None = None
        self._changed: list[Changed] = [self.key_warnings.changed]
        self._applied: dict[ObjectKey, tuple[str, str]] = {}
        """By child: the digests of the desired manifest and of the object after the apply."""
        self._refused: dict[ResourceKey, dict[ObjectKey, _Refusal]] = {}
        """By resource: the children whose last apply was rejected."""
        self._failing: dict[ResourceKey, dict[ObjectKey, tuple[str, float]]] = {}
        """By resource and child: the digest of a manifest whose apply fails, and since when (monotonic)."""
        self._status: dict[ResourceKey, tuple[str, str]] = {}
        """By resource: the same digests of its status."""

    def lead(self, namespaces: Namespaces) -> None:
        """Begin to write: this replica holds the Lease."""
        self._namespaces = namespaces
        self._publish_namespaces()

    def _reconciled(self) -> set[ResourceKey]:
        """Return the existing resources with pods."""
        return {_resource_key(key) for kind in self._kinds_with_pods for key in self.index.keys(kind)}

    def subscribe(self, changed: Changed) -> None:
        """Call `changed` after every change from now on."""
        self._changed.append(changed)

    def keys(self) -> list[ResourceKey]:
        """Return every resource, and the owner of every cluster-scoped child whose owner no longer exists."""
        resources = [_resource_key(key) for kind in sorted(RESOURCE_KINDS) for key in self.index.keys(kind)]
        cluster_scoped = (kind for kind, watched in self._watched.items() if not watched.namespaced)
        entries = (self.index.entry(key) for kind in cluster_scoped for key in self.index.keys(kind))
        owners = {entry.owner for entry in entries if entry is not None and _is_reconciled(entry.owner)}
        return [*resources, *sorted(owners.difference(resources))]

    def resource(self, key: ResourceKey) -> Manifest | None:
        """Return the resource; None also while it is being deleted."""
        found = self.index.get(_object_key(key))
        return None if found is None or found["metadata"].get("deletionTimestamp") else found

    def observe(self, key: ResourceKey) -> Observed:
        """Return the children and pods of the resource."""
        children: dict[ChildKey, Manifest] = {}
        resource = self.resource(key)
        for object_key, entry in self.index.owned(key):
            if object_key.kind in self._child_kinds:
                manifest = entry.manifest
                if is_child(manifest, key, resource) and not _deleting(manifest):
                    children[ChildKey.of(manifest)] = self._job_events.explained(manifest)
        pods = tuple(pod for _, pod in self._pods_of(key))
        return self._relations.observed(key, children, pods, self.resource)

    def api_keys(self) -> Mapping[str, KeyGrant]:
        """Return the grants of the API keys."""
        return api_keys(self.index.list("Secret")).grants

    async def apply(self, owner: ResourceKey, child: Child) -> None:
        """Apply the child unless it is up to date. Raises ChildRefused if the API server rejects it."""
        key = ObjectKey.of(child.manifest)
        if self._restricted_to and not self._watched[key.kind].namespaced:
            raise ChildRefused(
                f"a {key.kind} is cluster-scoped, and the operator is restricted to the namespaces "
                f"{', '.join(self._restricted_to)}",
                hint="Install headrace without the chart's value watchNamespaces",
            )
        wanted, entry = digest_of(child.manifest), self.index.entry(key)
        if key.kind == "Job" and entry is not None:
            await self._explain_missing_pod(owner, entry.manifest)
        if entry is not None and self._applied.get(key) == (wanted, entry.digest):
            SKIPPED.inc()
            self._failing.get(owner, {}).pop(key, None)
            return
        before = self._refused.get(owner, {}).get(key)
        if before is not None and before.wanted != wanted:
            before = None
        if before is not None and (left := before.until - self._clock()) > 0:
            raise ChildRefused(before.why, retry_seconds=left)
        began = self._clock()
        try:
            answer = await self._apply(owner, child, None if entry is None else entry.manifest)
        except (ApiError, NotOurs) as error:
            if isinstance(error, ApiError) and self._may_be_temporary(owner, key, wanted, error, began):
                raise
            why = error.server_message if isinstance(error, ApiError) else str(error)
            seconds = REFUSED_SECONDS if before is None else min(2 * before.seconds, LONGEST_REFUSED_SECONDS)
            self._refused.setdefault(owner, {})[key] = _Refusal(wanted, why, seconds, self._clock() + seconds)
            raise ChildRefused(why, retry_seconds=seconds) from error
        for failures in (self._refused, self._failing):
            failures.get(owner, {}).pop(key, None)
        self.index.put(answer)
        self._applied[key] = (wanted, digest_of(answer))

    async def _explain_missing_pod(self, owner: ResourceKey, job: Manifest) -> None:
        has_pod = any(controls(job, pod) for _, pod in self._pods_of(owner))
        if await self._job_events.refresh(job, has_pod=has_pod):
            self._notify(owner)

    def _may_be_temporary(self, owner: ResourceKey, key: ObjectKey, wanted: str, error: ApiError, began: float) -> bool:
        """Whether the error may be temporary. While the API server is unreachable, no status could be written."""
        if error.status == UNREACHABLE:
            return True
        failing = self._failing.setdefault(owner, {})
        before, since = failing.get(key, (wanted, began))
        if before != wanted:
            since = began
        failing[key] = wanted, since
        return error.status not in REFUSALS and self._clock() - since < TEMPORARY_ERROR_SECONDS

    async def delete(self, owner: ResourceKey, child: ChildKey) -> None:
        """Delete the child; its pods get their grace period.

        The namespaced children of a deleted resource are left to the garbage collector: it follows ownerReferences, or
        removes them when the user keeps the children (`--cascade=orphan`).
        """
        key = ObjectKey(child.kind, child.namespace, child.name)
        entry, resource = self.index.entry(key), self.resource(owner)
        if entry is None or (resource is None and self._watched[key.kind].namespaced):
            return
        if is_child(entry.manifest, owner, resource):
            await self._api.delete(self._watched[key.kind].path(key.namespace, key.name), uid=entry.uid)

    async def set_routable(self, owner: ResourceKey, pods: frozenset[str]) -> None:
        """Set the readiness gate of the resource's runtime pods."""
        for key, pod in list(self._pods_of(owner)):
            runs = pod["metadata"]["labels"].get(v.COMPONENT_LABEL) == v.COMPONENT_RUNTIME
            wanted = key.name in pods
            if runs and not _deleting(pod) and _gate(pod) != wanted:
                await self._set_gate(key, pod["metadata"]["uid"], wanted=wanted)

    async def convert(self, owner: ResourceKey, conversion: Conversion) -> str | None:
        """Let a standby pod replace a starting replica (`standby`)."""
        starting = self.index.get(ObjectKey(POD.kind, owner.namespace, conversion.pod))
        if starting is None:
            return None
        for pod in candidates((pod for _, pod in self._pods_of(conversion.pool)), conversion):
            if (converted := await convert(self._api, pod, starting)) is not None:
                self.index.put(converted)
                return str(pod["metadata"]["name"])
        return None

    def keep_objects(self, owner: ResourceKey, names: frozenset[str]) -> None:
        """Let the node agents pin these objects (`kept_objects`)."""
        self.kept_objects.update(owner, names)

    def _pods_of(self, key: ResourceKey) -> Iterator[tuple[ObjectKey, Manifest]]:
        workload, labels = cache(self.index.get), resource_labels()  # decoded once for all its pods
        for pod_key, entry in self.index.owned(key):
            if pod_key.kind != POD.kind:
                continue
            pod = entry.manifest
            made_by = workload_of(pod)
            if made_by is not None and is_pod_of(pod, key, workload(made_by), labels):
                yield pod_key, pod

    async def write_status(self, key: ResourceKey, status: Manifest) -> None:
        """Write the status of the resource."""
        resource = self.resource(key)
        if resource is None or resource.get("status") == status:
            return
        wanted = digest(status)
        if self._status.get(key) == (wanted, digest(resource.get("status"))):
            return  # the schema of an older CRD drops a field: writing it again would change nothing
        path = self._watched[key.kind].path(key.namespace, key.name)
        try:
            answer = await self._api.replace_status(path, resource["metadata"]["uid"], status)
        except ApiError as error:
            if error.status == NOT_FOUND:
                return
            raise
        self.index.put(answer)
        self._status[key] = (wanted, digest(answer.get("status")))

    async def record(self, key: ResourceKey, event: Event) -> None:
        """Record an event about the resource."""
        resource = self.resource(key)
        if resource is not None:
            await self._recorder.record(resource, event)

    async def _apply(self, owner: ResourceKey, child: Child, before: Manifest | None) -> Manifest:
        """Apply a child in a provided namespace. Raises NotOurs if its name belongs to another owner.

        Objects of a former resource with the owner's kind and name are adopted, and objects without a controller if
        they do not conflict, except cluster-scoped ones: all users of the cluster share their names.
        """
        assert self._namespaces is not None
        watched, manifest = self._watched[child.key.kind], child.manifest
        path = watched.path(child.key.namespace, child.key.name)
        if not watched.namespaced:
            before = await self._find(path)  # the index has labelled ones only
        ours = before is not None and resource_controlling(before) == owner
        if before is not None and not ours and (not watched.namespaced or is_of_another(before, owner)):
            raise NotOurs(not_ours(child.key, owner))
        if owner.kind in self._kinds_with_pods:
            await self._namespaces.provide(owner.namespace)
        try:
            return await self._api.apply(path, manifest, force=ours)
        except ApiError as error:
            if error.status == CONFLICT and not ours:
                await self._check_owner(owner, child.key, path, error)
            elif error.status == INVALID and ours and manifest["kind"] == "Service":
                await self._api.delete(path)  # its address is immutable; headrace sends no requests to it
            elif error.status == INVALID and ours and "spec" in manifest:
                # Lists are merged by key: an item whose key another client changed would remain and contradict ours.
                await self._api.merge(path, {"spec": manifest["spec"]})
            else:
                raise
        return await self._api.apply(path, manifest, force=True)

    async def _find(self, path: str) -> Manifest | None:
        try:
            return without_claim(await self._api.get(path))
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            return None

    async def _check_owner(self, owner: ResourceKey, child: ChildKey, path: str, conflict: ApiError) -> None:
        """Return if the resource controls the object, which is missing in the index because its labels were removed."""
        found = without_claim(await self._api.get(path))
        if resource_controlling(found) != owner:
            raise NotOurs(not_ours(child, owner)) from conflict

    async def _set_gate(self, key: ObjectKey, uid: str, *, wanted: bool) -> None:
        condition = {
            "type": v.ROUTABLE_GATE,
            "status": "True" if wanted else "False",
            "lastTransitionTime": timestamp(time.time()),
            "reason": v.ADMITTED if wanted else v.WAITING_FOR_GATEWAYS,
        }
        patch = {"metadata": {"uid": uid}, "status": {"conditions": [condition]}}
        try:
            self.index.put(await self._api.merge_lists(f"{POD.path(key.namespace, key.name)}/status", patch))
        except ApiError as error:
            if error.status not in (NOT_FOUND, CONFLICT):  # it is gone, or another one has its name
                raise

    def _on_change(self, key: ObjectKey, before: Entry | None, now: Entry | None) -> None:
        if key.kind in RESOURCE_KINDS:
            self._on_resource(_resource_key(key), before, now)
        elif key.kind == "Secret":
            self._notify(None)
        else:
            if now is None and before is not None:
                self._applied.pop(key, None)
                self._job_events.forget(before.uid)
            for owner in {entry.owner for entry in (before, now) if entry is not None and _is_reconciled(entry.owner)}:
                self._notify(owner)
        if (before is None or now is None) and key.kind in self._need_namespaces:
            self._publish_namespaces()

    def _on_resource(self, key: ResourceKey, before: Entry | None, now: Entry | None) -> None:
        self._notify(key)
        if now is None:
            self.kept_objects.update(key, None)
        for other in self._relations.update(key, None if now is None else now.manifest):
            self._notify(other)
        if before is None or now is None or before.uid != now.uid:
            for known in (self._status, self._refused, self._failing):
                known.pop(key, None)

    def _publish_namespaces(self) -> None:
        """Publish the needed namespaces: those with a resource or a pod that still terminates."""
        if self._namespaces is not None:
            self._namespaces.want(
                frozenset(key.namespace for kind in self._need_namespaces for key in self.index.keys(kind))
            )

    def _notify(self, key: ResourceKey | None) -> None:
        for changed in self._changed:
            changed(key)


def _object_key(key: ResourceKey) -> ObjectKey:
    return ObjectKey(key.kind, key.namespace, key.name)


def _resource_key(key: ObjectKey) -> ResourceKey:
    return ResourceKey(key.kind, key.namespace, key.name)


def _is_reconciled(owner: ResourceKey | None) -> TypeGuard[ResourceKey]:
    """Return whether the owner's kind is known: children of kinds of a newer release are not touched."""
    return owner is not None and owner.kind in RESOURCE_KINDS


def _deleting(manifest: Manifest) -> bool:
    return "deletionTimestamp" in manifest["metadata"]


def _gate(pod: Manifest) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(gate["type"] == v.ROUTABLE_GATE and gate["status"] == "True" for gate in conditions)
