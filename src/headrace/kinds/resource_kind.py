"""Definition of one kind of resource: the record from which everything else is derived."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.api.kinds import Kind
from headrace.api.vocabulary import READY
from headrace.kinds.columns import (
    AGE,
    AGE_PRINTED,
    NAME,
    READY_STATUS,
    READY_STATUS_PRINTED,
    Column,
    Object,
    PrinterColumn,
)

if TYPE_CHECKING:
    from headrace.api.schema import Schema
    from headrace.kinds.controller import Controller
    from headrace.reconcile.world import ResourceKey


def no_references(manifest: Object) -> Iterable[ResourceKey]:
    """Return no references, for kinds that refer to no other resource."""
    del manifest
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceKind:
    """A kind of resource. CRD, validation, both worlds, the reconcile loop and the command line are derived from it.

    A new kind is a package under `headrace.kinds` that creates one, and a line in `headrace.kinds.registry`. The chart
    grants the operator's rights, and a test compares them with the registry.
    """

    kind: Kind
    schema: Callable[[], Schema]
    """Returns the models and rules. Called late, because importing pydantic would delay the command line."""
    controller: Callable[[], Controller]
    """Returns the functions for the reconcile loop. Called late, for the same reason."""
    conditions: tuple[str, ...] = (READY,)
    """Types of its conditions, in the order of the status. `Ready` must be one of them."""
    children: tuple[Kind, ...]
    """Kinds of its children, except pods. The operator watches these kinds and applies no others. Pods, Secrets and
    resources cannot be children, because all objects of these kinds are watched."""
    label: str
    """Label on children and their pods with the resource's name. Each kind has its own, so that selectors of one kind
    never match pods of another."""
    suffix: str
    """Last word of its children's names (`child_name`): letters and digits, but neither eight hexadecimal digits
    nor a component of a ModelDeployment."""
    printer_columns: tuple[PrinterColumn, ...] = (READY_STATUS_PRINTED, AGE_PRINTED)
    """Columns of `kubectl get`, after the name."""
    columns: tuple[Column, ...] = (NAME, READY_STATUS, AGE)
    """Columns of `headrace get`."""
    references: Callable[[Object], Iterable[ResourceKey]] = no_references
    """Returns the keys of the resources, of any kind, that a resource refers to; none for an invalid one. The rule
    receives those that exist as `Observed.references`. The resource is enqueued when one is created or deleted, and
    when its generation, deletionTimestamp, status.publicName, or the type, status or reason of a condition changes."""
    recorded_status: tuple[str, ...] = ()
    """Fields of the status that local mode keeps over a restart; the others are observed again."""
    buckets: tuple[str, ...] = ()
    """Names of the key-value buckets of its publications. The loop creates the buckets, and removes entries that no
    resource publishes."""
    has_pods: bool = False
    """Whether it has pods: `describe` and `logs` show them, and the operator provides its namespaces with a NATS login
    and a claim for models."""
    scalable: bool = False
    """Whether it has `/scale`: spec.replicas, status.replicas and status.selector."""

    def child_name(self, name: str, *parts: str) -> str:
        """Return the name of a namespaced child of the resource `name`; `parts` distinguish its children.

        Children of two kinds never have the same name, because the last word of the name identifies the kind. A child
        of a ModelDeployment is named `<name>`, `<name>-<component>`, `<name>-<revision>`, `<name>-fetch-<hash>` or
        `<name>-standby-<hash>`. A
        child of any other kind is named `<name>-<part>…-<suffix>`.

        One name has no such word: that of a ModelDeployment's Service, which users look up by the model's name. If a
        Service of another kind has the same name, the later of the two is refused
        (`headrace.control.world.not_ours`).
        """
        return "-".join(filter(None, (name, *parts, self.suffix)))

    def cluster_child_name(self, namespace: str, name: str, *parts: str) -> str:
        """Return the name of a cluster-scoped child: `<namespace>-<name>-<part>…-<hash>-<suffix>`.

        The hash, of the namespace and the name, keeps `b` in the namespace `a-a` and `a-b` in the namespace `a` apart.
        """
        identity = hashlib.sha256(f"{namespace}/{name}".encode()).hexdigest()[:8]
        return "-".join(filter(None, (namespace, name, *parts, identity, self.suffix)))
