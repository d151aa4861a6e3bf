"""What headrace knows of one of its kinds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.api.kinds import Kind
from headrace.kinds.columns import Column, Object, PrinterColumn

if TYPE_CHECKING:
    from headrace.api.schema import Schema
    from headrace.kinds.controller import Controller
    from headrace.reconcile.world import ResourceKey


def no_references(manifest: Object) -> Iterable[ResourceKey]:
    """The resource refers to no other."""
    del manifest
    return ()


@dataclass(frozen=True, slots=True)
class ResourceKind:
    """A kind of resource. CRD, validation, both worlds, the reconcile loop and the command line are derived from it.

    A new kind is a package under `headrace.kinds` that makes one, and its line in `headrace.kinds.registry`. The chart
    grants the operator's rights; its tests compare them with the registry.
    """

    kind: Kind
    schema: Callable[[], Schema]
    """Returns the models and rules. Called late: they need pydantic, which the command line should not wait for."""
    controller: Callable[[], Controller]
    """Returns what the reconcile loop runs. Called late, for the same reason."""
    conditions: tuple[str, ...]
    """Types of its conditions, in the order in which the status has them. `Ready` is one."""
    children: tuple[Kind, ...]
    """What it may own, pods aside: the operator watches these, and nothing else is applied for it. Pods, Secrets and
    resources are no children: they are watched whoever made them."""
    label: str
    """Label that names the resource on its children and their pods. Each kind has its own, so that the selectors of one
    kind never match the pods of another."""
    suffix: str
    """Last word of its children's names (`child_name`): of letters and digits, not eight hexadecimal digits, and no
    component of a ModelDeployment."""
    printer_columns: tuple[PrinterColumn, ...]
    columns: tuple[Column, ...]
    """Of `headrace get`."""
    references: Callable[[Object], Iterable[ResourceKey]] = no_references
    """Returns the keys of the resources, of any kind, that a resource refers to; none for an invalid one. The rule gets
    those that exist in `Observed.references`. The resource is reconciled when one appears or disappears, or changes in
    what a rule may read of it: its spec (generation), deletionTimestamp, status.publicName, and the type, status and
    reason of its conditions."""
    recorded_status: tuple[str, ...] = ()
    """Fields of the status that record something: local mode keeps them over a restart. The others are observed."""
    buckets: tuple[str, ...] = ()
    """Names of the key-value buckets that its outcomes publish into. The loop creates them, and removes entries that no
    resource publishes."""
    has_pods: bool = False
    """Whether it has pods: `describe` and `logs` show them, and the operator provides its namespaces with a NATS login
    and a claim for models."""
    scalable: bool = False
    """Whether it has `/scale`: spec.replicas, status.replicas and status.selector."""

    def child_name(self, name: str, *parts: str) -> str:
        """Return the name of a namespaced child of the resource `name`; `parts` tell its children apart.

        No two kinds have children of one name, because the last word of a name gives the kind away. A child of a
        ModelDeployment is named `<name>`, `<name>-<component>`, `<name>-<revision>` or `<name>-fetch-<hash>`. A child
        of any other kind is named `<name>-<part>…-<suffix>`.

        One name carries no such word: the Service of a ModelDeployment, which users look up under the model's name.
        Should one be called as a Service of another kind is, the later of the two is refused
        (`headrace.control.world.not_ours`).
        """
        return "-".join(filter(None, (name, *parts, self.suffix)))

    def cluster_child_name(self, namespace: str, name: str, *parts: str) -> str:
        """Return the name of a cluster-scoped child: `<namespace>-<name>-<part>…-<hash>-<suffix>`.

        The hash, of the namespace and the name, keeps `b` in the namespace `a-a` and `a-b` in the namespace `a` apart.
        """
        identity = hashlib.sha256(f"{namespace}/{name}".encode()).hexdigest()[:8]
        return "-".join(filter(None, (namespace, name, *parts, identity, self.suffix)))
