"""A Kubernetes cluster as the reconcile loop sees it (`headrace.control.world`): reads from the index, writes by apply.

Nothing is written that is there already. An API server adds defaults to what it is given, so what was wanted and what
is there cannot be compared field by field. Instead two digests are remembered of each apply: of what was wanted, and of
the object as the API server answered. While both are what they were, there is nothing to do; when either changed (the
rule wants something else, or somebody changed the object) it is applied again. After a restart each child is applied
once, which changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from headrace.api import vocabulary as v
from headrace.control.naming import Names, grant_of
from headrace.control.world import Changed
from headrace.reconcile.conditions import timestamp
from headrace.reconcile.world import Child, ChildKey, Event, Manifest, Observed, ResourceKey
from headrace.routes import KeyGrant
from headrace_operator.client import INVALID, NOT_FOUND, ApiError, ApiServer
from headrace_operator.index import Entry, Index, ObjectKey, digest_of
from headrace_operator.kinds import ALL, CHILD_KINDS, EVENT, MODEL_DEPLOYMENT, POD
from headrace_operator.namespaces import Namespaces


class KubernetesWorld:
    """See the module."""

    def __init__(self, api: ApiServer, pod_name: str) -> None:
        self.index = Index(self._on_change)
        self._api = api
        self._pod_name = pod_name
        self._namespaces: Namespaces | None = None
        self._names = Names()
        self._changed: list[Changed] = []
        self._applied: dict[ObjectKey, tuple[str, str]] = {}
        """By child: the digests of what was wanted, and of what was there then."""
        self._status: dict[ResourceKey, tuple[str, str]] = {}
        """By resource: the same of its status."""

    def lead(self, namespaces: Namespaces) -> None:
        """From now on this replica writes, and provides namespaces."""
        self._namespaces = namespaces
        self._tell_namespaces()

    def subscribe(self, changed: Changed) -> None:
        """Call `changed` after every change from now on."""
        self._changed.append(changed)

    def keys(self) -> list[ResourceKey]:
        """Return every ModelDeployment there is."""
        return [ResourceKey(key.namespace, key.name) for key in self.index.keys(MODEL_DEPLOYMENT.kind)]

    def resource(self, key: ResourceKey) -> Manifest | None:
        """Return the ModelDeployment; one that is being deleted is gone."""
        found = self.index.get(_object_key(key))
        return None if found is None or found["metadata"].get("deletionTimestamp") else found

    def observe(self, key: ResourceKey) -> Observed:
        """Return the children and pods of the resource."""
        children: dict[ChildKey, Manifest] = {}
        pods: list[Manifest] = []
        for object_key, entry in self.index.owned(key):
            if object_key.kind == POD.kind:
                pods.append(entry.manifest)
            elif object_key.kind in CHILD_KINDS and not (child := entry.manifest)["metadata"].get("deletionTimestamp"):
                children[ChildKey.of(child)] = child
        return Observed(children, tuple(pods), self._names.taken(key))

    def api_keys(self) -> Mapping[str, KeyGrant]:
        """Return what each API key opens."""
        return dict(grant for secret in self.index.list("Secret") if (grant := grant_of(secret)) is not None)

    async def apply(self, owner: ResourceKey, child: Child) -> None:
        """Make the child be as described."""
        key = ObjectKey.of(child.manifest)
        wanted, entry = digest_of(child.manifest), self.index.entry(key)
        assert self._namespaces is not None
        await self._namespaces.provide(owner.namespace)
        if entry is not None and self._applied.get(key) == (wanted, entry.digest):
            return
        path = ALL[key.kind].path(key.namespace, key.name)
        try:
            answer = await self._api.apply(path, child.manifest)
        except ApiError as error:
            if error.status != INVALID or entry is None:
                raise
            # Lists are merged by key: an item that somebody changed the key of stays beside ours, and contradicts it.
            await self._api.merge(path, {"spec": child.manifest["spec"]})
            answer = await self._api.apply(path, child.manifest)
        self.index.put(answer)
        self._applied[key] = (wanted, digest_of(answer))

    async def delete(self, owner: ResourceKey, child: ChildKey) -> None:
        """Delete the child; its pods get their grace period."""
        del owner
        key = ObjectKey(child.kind, child.namespace, child.name)
        entry = self.index.entry(key)
        if entry is not None:
            await self._api.delete(ALL[key.kind].path(key.namespace, key.name), uid=entry.uid)

    async def set_routable(self, owner: ResourceKey, pods: frozenset[str]) -> None:
        """Set the readiness gate of the resource's runtime pods."""
        for key, entry in self.index.owned(owner):
            if key.kind != POD.kind:
                continue
            pod = entry.manifest
            runs = pod["metadata"]["labels"].get(v.COMPONENT_LABEL) == v.COMPONENT_RUNTIME
            wanted = key.name in pods
            if runs and not pod["metadata"].get("deletionTimestamp") and _gate(pod) != wanted:
                await self._set_gate(key, entry, wanted=wanted)

    async def write_status(self, key: ResourceKey, status: Manifest) -> None:
        """Write the status of the resource."""
        resource = self.resource(key)
        if resource is None or resource.get("status") == status:
            return
        before = resource.get("status", {})
        wanted = digest_of({"metadata": {}, "wanted": status})
        if self._status.get(key) == (wanted, digest_of({"metadata": {}, "there": before})):
            return  # the schema of an older CRD drops a field: writing it again would change nothing, for ever
        dropped = {field: None for field in before if field not in status}
        patch = {"metadata": {"uid": resource["metadata"]["uid"]}, "status": {**dropped, **status}}
        path = MODEL_DEPLOYMENT.path(key.namespace, key.name)
        try:
            answer = await self._api.merge(f"{path}/status", patch)
        except ApiError as error:
            if error.status == NOT_FOUND:
                return
            raise
        self.index.put(answer)
        self._status[key] = (wanted, digest_of({"metadata": {}, "there": answer.get("status", {})}))

    async def record(self, key: ResourceKey, event: Event) -> None:
        """Record an event about the resource."""
        resource = self.resource(key)
        if resource is None:
            return
        now = timestamp(time.time())
        manifest: Manifest = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{key.name}.{time.time_ns():x}", "namespace": key.namespace},
            "involvedObject": {
                "apiVersion": v.API_VERSION,
                "kind": MODEL_DEPLOYMENT.kind,
                "namespace": key.namespace,
                "name": key.name,
                "uid": resource["metadata"]["uid"],
                "resourceVersion": resource["metadata"]["resourceVersion"],
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": v.FIELD_MANAGER, "host": self._pod_name},
            "reportingComponent": v.FIELD_MANAGER,
            "reportingInstance": self._pod_name,
        }
        await self._api.create(EVENT.path(key.namespace), manifest)

    async def _set_gate(self, key: ObjectKey, entry: Entry, *, wanted: bool) -> None:
        condition = {
            "type": v.ROUTABLE_GATE,
            "status": "True" if wanted else "False",
            "lastTransitionTime": timestamp(time.time()),
            "reason": v.ADMITTED if wanted else v.WAITING_FOR_GATEWAYS,
        }
        patch = {"metadata": {"uid": entry.uid}, "status": {"conditions": [condition]}}
        try:
            self.index.put(await self._api.merge_lists(f"{POD.path(key.namespace, key.name)}/status", patch))
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise

    def _on_change(self, key: ObjectKey, before: Entry | None, now: Entry | None) -> None:
        if key.kind == MODEL_DEPLOYMENT.kind:
            resource = ResourceKey(key.namespace, key.name)
            others = self._names.update(resource, None if now is None else now.manifest)
            for concerned in (resource, *sorted(others)):
                self._tell(concerned)
            if before is None or now is None:
                self._tell_namespaces()
                self._status.pop(resource, None)
            return
        if key.kind == "Secret":
            self._tell(None)
            return
        if now is None:
            self._applied.pop(key, None)
        for owner in {entry.owner for entry in (before, now) if entry is not None and entry.owner is not None}:
            self._tell(owner)

    def _tell_namespaces(self) -> None:
        if self._namespaces is not None:
            self._namespaces.want(frozenset(key.namespace for key in self.keys()))

    def _tell(self, key: ResourceKey | None) -> None:
        for changed in self._changed:
            changed(key)


def _object_key(key: ResourceKey) -> ObjectKey:
    return ObjectKey(MODEL_DEPLOYMENT.kind, key.namespace, key.name)


def _gate(pod: Manifest) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(gate["type"] == v.ROUTABLE_GATE and gate["status"] == "True" for gate in conditions)
