"""Input and output of the rules: plain data between the pure rules and the adapters of both worlds.

Kubernetes objects are plain dicts in API shape (`apiVersion`, `kind`, `metadata`, `spec`, `status`), the format of the
API server and of the local cluster. Everything else is a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Generic, Literal, TypeVar

from typing_extensions import override

from headrace.events.messages import Demand, FetchProgress, Launch, Message, ReplicaReport
from headrace.http.bodies import MAX_BODY_BYTES
from headrace.reconcile.images import default_images

M = TypeVar("M")

Manifest = dict[str, Any]
"""A Kubernetes object in API shape."""


@dataclass(frozen=True, slots=True, order=True)
class ResourceKey:
    """Key of a resource that a user creates and the loop reconciles. Kinds are distinct without their groups."""

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
        """Return the resource's name for logs."""
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """Names an object. Kinds are distinct without their groups; the namespace of a cluster-scoped object is empty."""

    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, manifest: Manifest) -> ObjectKey:
        """Return the key of an object."""
        metadata = manifest["metadata"]
        return cls(manifest["kind"], metadata.get("namespace", ""), metadata["name"])


@dataclass(frozen=True, slots=True, order=True)
class ChildKey:
    """Key of a child. The namespace of a cluster-scoped one is empty."""

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
    """Phase of a pass in which a child is applied (`headrace.reconcile.sequence`)."""

    PREREQUISITE = 0
    """Must exist before any pod: the pods' service account and network policies."""
    WORKLOAD = 1
    """Deployments of serving pods."""
    OTHER = 2
    """All others; no serving pod depends on them."""


@dataclass(frozen=True, slots=True)
class Child:
    """A desired child. The adapter applies it unchanged (server-side apply)."""

    key: ChildKey
    manifest: Manifest
    phase: ApplyPhase = ApplyPhase.OTHER


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a world: the only differences between the worlds that rules depend on."""

    gateway_url: str
    """Shown in status."""
    nats_url: str
    models_directory: str
    """Model directory of fetches and runtimes: in a cluster the mount path of the claim."""
    models_claim: str | None = None
    """The PersistentVolumeClaim to mount there; None in local mode."""
    images: Mapping[str, str] = field(default_factory=default_images)
    """References by the keys of `headrace.reconcile.images.platform_images`."""
    image_pull_secrets: tuple[str, ...] = ()
    platform_namespace: str | None = None
    """Namespace of the gateways, the operator and NATS. None in local mode, which has no NetworkPolicies, disruption
    budgets and service accounts."""
    fetch_env: tuple[tuple[str, str], ...] = ()
    """Variables of fetch pods, by name: proxies, pip's index."""
    ca_bundle_configmap: str | None = None
    """A ConfigMap (key `ca.crt`) of the model's namespace whose certificates fetch pods trust, and no others."""
    runs_images: bool = True
    """Whether pods run images; else a custom container needs a command."""
    max_body_bytes: int = MAX_BODY_BYTES
    """Limit of request bodies in gateways and runtimes. A change creates a revision of each model, because a runtime
    reads it at its start."""
    pod_security: bool = False
    """Whether pods set the user of headrace's images."""
    node_agent: bool = False
    """Whether nodes have a node agent. Where one is missing after all, pods with its volume do not start in a cluster,
    and load their weights from files in local mode."""
    warm_processes: bool = False
    """Whether the world keeps warm processes, which pods become (local mode)."""
    standby_pods: int = 0
    """Size of each pool of standby pods, which become replicas (in a cluster)."""
    allowed_schemes: frozenset[str] = frozenset({"package", "https", "s3", "hf", "oci", "file"})
    allow_loopback_sources: bool = False


@dataclass(frozen=True, slots=True)
class Observed:
    """Observed state: existing objects of the resource, with their status.

    `pods` are the pods of all children (runtime and fetch), identified by their labels; a terminating pod has
    `metadata.deletionTimestamp`.
    `refused` has the error of each child that the world refused when it was last applied.
    `references` are the existing resources that it refers to (`ResourceKind.references`).
    `peers` is the observer's result about the other resources of the kind; only the kind's rule knows its type.
    """

    children: Mapping[ChildKey, Manifest] = field(default_factory=dict)
    pods: tuple[Manifest, ...] = ()
    refused: Mapping[ChildKey, str] = field(default_factory=dict)
    references: Mapping[ResourceKey, Manifest] = field(default_factory=dict)
    peers: object = None


@dataclass(frozen=True, slots=True)
class Signals:
    """Messages about the resource on NATS, the newest one of each sender, and the time."""

    now: float
    """Monotonic time, for windows and deadlines."""
    wall: float
    """Unix time, for timestamps in status and events."""
    demand: Mapping[str, Demand] = field(default_factory=dict)
    """By gateway id, of live gateways only."""
    replicas: Mapping[str, ReplicaReport] = field(default_factory=dict)
    """By pod name."""
    ignored: Mapping[str, str] = field(default_factory=dict)
    """By pod name: why its newest report is ignored."""
    probe_faults: Mapping[str, str] = field(default_factory=dict)
    """By pod name, of custom containers: why the probe of its readiness path fails."""
    admissions: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By pod name: ids of the gateways that route to it (the state of their newest admission is Ready)."""
    gateways: frozenset[str] = frozenset()
    """Ids of the live gateways."""
    fetch: FetchProgress | None = None
    connected: bool = True
    """Whether NATS is connected; if not, a missing report does not mean that its sender failed."""


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes event about the resource; written on transitions only."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Publication:
    """Entry of a resource in a key-value bucket of NATS (`headrace.events.subjects`).

    The resource is the only publisher of the entry. Where several kinds publish into one bucket, the entry's name
    contains the kind, because resources of two kinds may have the same name.
    """

    bucket: str
    entry: str
    value: Message | None
    """None withdraws the entry; so do an outcome without it and the deletion of the resource."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """A starting replica that a standby pod can replace: the world labels that one like this pod, and its workload
    adopts it and deletes this pod, which has not started.
    """

    pod: str
    """The starting replica."""
    pool: ResourceKey
    """The resource whose child the pool is."""
    program: str
    """The standby pod's label."""
    launch: Launch
    nodes: tuple[str, ...] = ()
    """Standby pods on these nodes are preferred."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[M]):
    """Desired state after a pass. Applying it again changes nothing.

    `children` are all desired children; the adapter deletes owned objects that are not among them.
    `status` is the full new status (written only when it differs). `routable_pods` are the pods whose readiness gate
    should be True (of the others: False). `conversions` are tried once. `launches` are sent, by pod, to former standby
    pods that have not reported yet. `kept_objects` are the names of the objects that node agents pin for the
    resource. `requeue_seconds` is the time until the next pass if no event
    enqueues the resource before. `memory` is passed to the next call. `publications` are all entries of the resource.
    An entry that an earlier process may have published is withdrawn by name (with the value None) until the loop knows
    all entries.
    """

    children: tuple[Child, ...]
    status: Manifest
    memory: M
    publications: tuple[Publication, ...] = ()
    events: tuple[Event, ...] = ()
    routable_pods: frozenset[str] = frozenset()
    conversions: tuple[Conversion, ...] = ()
    launches: Mapping[str, Launch] = field(default_factory=dict)
    kept_objects: frozenset[str] = frozenset()
    requeue_seconds: float | None = None
