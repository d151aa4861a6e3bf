"""Interface between a kind and the reconcile loop: the rule, the observer, and the reporting pods and fetches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from headrace.reconcile.world import Manifest, Observed, Outcome, ResourceKey, Settings, Signals

STARTING = "starting"
"""Stage of a replica that reports no other stage of its start."""


class Rule(Protocol):
    """A pure reconcile function."""

    def __call__(
        self, manifest: Manifest, observed: Observed, signals: Signals, settings: Settings, memory: Any, /
    ) -> Outcome[Any]:
        """Return the desired state of `manifest`. Never raises for a bad resource.

        `memory` is the memory of the last outcome, or None in the first pass. The loop stores it without reading it.
        """


class Observer(Protocol):
    """Comparison of the resources of one kind with each other; each world has its own observer. Pure."""

    def update(self, key: ResourceKey, manifest: Manifest | None) -> set[ResourceKey]:
        """Update with the present state of a resource (None: deleted); return the others that the change affects."""

    def peers(self, key: ResourceKey, resource: Callable[[ResourceKey], Manifest | None]) -> object:
        """Return the rule's input about the other resources of the kind: `Observed.peers`.

        Args:
            key: the reconciled resource.
            resource: looks up a resource by its key.
        """


@dataclass(frozen=True, slots=True)
class ProbedPod:
    """A running pod of a custom container, whose readiness path the reconcile loop probes."""

    name: str
    revision: str
    host: str
    port: int
    path: str
    capacity: int
    started: float
    """Unix time of the process's start."""
    ready: bool
    """Result of the kubelet's probe."""
    terminating: bool
    """Whether the pod is being deleted."""
    announces: bool = False
    """Whether the container registers itself; then the loop publishes no reports for it."""


@dataclass(frozen=True, slots=True)
class Reporters:
    """Senders of reports about a resource on NATS. Reports of other pods are dropped."""

    pods: frozenset[str] = frozenset()
    """Names of the runtime pods."""
    fetches: bool = False
    """Whether a fetch Job of the resource exists."""
    probed: tuple[ProbedPod, ...] = ()
    """Pods that the loop probes. It also publishes reports for those that do not register themselves."""


def no_reporters(resource: Manifest, observed: Observed) -> Reporters:
    """Return no reporters, for kinds about which nothing is reported on NATS."""
    del resource, observed
    return Reporters()


@dataclass(frozen=True, slots=True)
class Controller:
    """Functions of a kind that the reconcile loop calls."""

    reconcile: Rule
    observer: Callable[[], Observer] | None = None
    """Returns a new observer for a world; None: the rule does not depend on other resources of its kind."""
    reporters: Callable[[Manifest, Observed], Reporters] = no_reporters
    """Returns the senders of reports about a resource, from the resource and its observed state."""
