"""What reconcile sees and what it says: plain data between the pure rules and the adapters of both worlds.

Kubernetes objects are plain dicts in API shape (`apiVersion`, `kind`, `metadata`, `spec`, `status`), because that is
what an API server and the local cluster both speak. Everything else is a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Generic, Literal, TypeVar

from typing_extensions import override

from headrace.events.messages import Demand, FetchProgress, Message, ReplicaReport
from headrace.http.bodies import MAX_BODY_BYTES
from headrace.reconcile.images import default_images

M = TypeVar("M")

Manifest = dict[str, Any]
"""A Kubernetes object in API shape."""


@dataclass(frozen=True, slots=True, order=True)
class ResourceKey:
    """Names one resource that a user makes and the loop reconciles. Kinds are distinct without their groups."""

    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, manifest: Manifest) -> ResourceKey:
        """Return the key of a resource."""
        metadata = manifest["metadata"]
        return cls(manifest["kind"], metadata["namespace"], metadata["name"])

    @override
    def __str__(self) -> str:
        """Return how logs name the resource."""
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class ChildKey:
    """Names one child object. The namespace of a cluster-scoped one is empty."""

    api_version: str
    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, manifest: Manifest) -> ChildKey:
        """Return the key of a manifest."""
        metadata = manifest["metadata"]
        return cls(manifest["apiVersion"], manifest["kind"], metadata.get("namespace", ""), metadata["name"])


class ApplyPhase(IntEnum):
    """When in a pass a child is applied (`headrace.reconcile.sequence`)."""

    PREREQUISITE = 0
    """What must exist before any pod: the pods' service account and network policies."""
    WORKLOAD = 1
    """Deployments, whose pods serve."""
    OTHER = 2
    """What no serving pod depends on."""


@dataclass(frozen=True, slots=True)
class Child:
    """A child as it should be. The adapter applies it (server-side apply) and adds nothing."""

    key: ChildKey
    manifest: Manifest
    phase: ApplyPhase = ApplyPhase.OTHER


@dataclass(frozen=True, slots=True)
class Settings:
    """What a world is like: the only difference between the two that reconcile may know, as values."""

    gateway_url: str
    """Shown in status."""
    nats_url: str
    models_directory: str
    """Where fetch and runtime children find models: in a cluster where the claim is mounted, else a directory."""
    models_claim: str | None = None
    """The PersistentVolumeClaim to mount there; None where there is nothing to mount."""
    images: Mapping[str, str] = field(default_factory=default_images)
    """References by the keys of `headrace.reconcile.images.platform_images`."""
    image_pull_secrets: tuple[str, ...] = ()
    platform_namespace: str | None = None
    """Where the gateways, the operator and NATS are. None where there is no such place: then nothing is guarded by
    NetworkPolicies, disruption budgets and service accounts."""
    fetch_env: tuple[tuple[str, str], ...] = ()
    """Variables of fetch pods, by name: proxies, pip's index."""
    ca_bundle_configmap: str | None = None
    """A ConfigMap (key `ca.crt`) of the model's namespace whose certificates fetch pods trust, and no others."""
    runs_images: bool = True
    """Whether pods are made of images; where they are not, a custom container needs a command."""
    max_body_bytes: int = MAX_BODY_BYTES
    """The largest request body that gateways take, and so that runtimes read. A change is a new revision of each model,
    because a runtime reads it when it starts."""
    pod_security: bool = False
    """Whether pods say as which user they run. It is that of our images."""
    allowed_schemes: frozenset[str] = frozenset({"package", "https", "file"})
    allow_loopback_sources: bool = False


@dataclass(frozen=True, slots=True)
class Observed:
    """What exists now and is owned by the resource, with status as the world reports it.

    `pods` are the pods of all children (runtime and fetch), recognised by their labels; a pod that is being deleted has
    `metadata.deletionTimestamp`.
    `refused` says of children why the world did not take them when they were last applied.
    `references` are the resources that it refers to, as far as they exist (`ResourceKind.references`).
    `peers` is what the observer of its kind returned about the other resources of that kind; only the kind's own rule
    knows its type.
    """

    children: Mapping[ChildKey, Manifest] = field(default_factory=dict)
    pods: tuple[Manifest, ...] = ()
    refused: Mapping[ChildKey, str] = field(default_factory=dict)
    references: Mapping[ResourceKey, Manifest] = field(default_factory=dict)
    peers: object = None


@dataclass(frozen=True, slots=True)
class Signals:
    """What was heard on NATS about the resource, newest message of each sender, and the time."""

    now: float
    """Monotonic seconds: windows and deadlines."""
    wall: float
    """Unix seconds: timestamps in status and events."""
    demand: Mapping[str, Demand] = field(default_factory=dict)
    """By gateway id; gateways that are gone are left out."""
    replicas: Mapping[str, ReplicaReport] = field(default_factory=dict)
    """By pod name."""
    ignored: Mapping[str, str] = field(default_factory=dict)
    """By pod name: what was wrong with its newest report, which is ignored."""
    probe_faults: Mapping[str, str] = field(default_factory=dict)
    """By pod name, of custom containers: what keeps its readiness path from answering."""
    admissions: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By pod name: ids of the gateways that route to it (their newest admission says Ready)."""
    gateways: frozenset[str] = frozenset()
    """Ids of the live gateways."""
    fetch: FetchProgress | None = None
    connected: bool = True
    """Whether NATS is reachable: while it is not, a missing report shows nothing."""


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes event about the resource; written on transitions only."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Publication:
    """An entry that a resource has in a key-value bucket of NATS (`headrace.events.subjects`).

    It is the only publisher of the entry. Where several kinds publish into one bucket, the entry's name contains the
    kind, because resources of two kinds may have the same name.
    """

    bucket: str
    entry: str
    value: Message | None
    """None withdraws the entry; so do an outcome without it and the deletion of the resource."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[M]):
    """What should be true next. Applying it twice changes nothing the second time.

    `children` is the whole wanted set: what the resource owns and is not in it is deleted by the adapter.
    `status` is the full new status (written only when it differs). `routable_pods` are the pods whose readiness gate
    should be True (of the others: False). `requeue_seconds`: look again after this long even if nothing happens.
    `memory` goes back into the next call. `publications` are all entries of the resource. One that an earlier process
    may have published is withdrawn by name (with the value None) until the loop knows all entries.
    """

    children: tuple[Child, ...]
    status: Manifest
    memory: M
    publications: tuple[Publication, ...] = ()
    events: tuple[Event, ...] = ()
    routable_pods: frozenset[str] = frozenset()
    requeue_seconds: float | None = None
