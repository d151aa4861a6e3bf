"""The half of a kind that runs in the reconcile loop: its rule, its observer, and who reports about its resources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from headrace.reconcile.world import Manifest, Observed, Outcome, ResourceKey, Settings, Signals

STARTING = "starting"
"""The stage of a replica that reports no more of its start."""


class Rule(Protocol):
    """A pure reconcile function."""

    def __call__(
        self, manifest: Manifest, observed: Observed, signals: Signals, settings: Settings, memory: Any, /
    ) -> Outcome[Any]:
        """Return the desired state of `manifest`. Never raises for a bad resource.

        `memory` is that of the last outcome, or None: the loop keeps it and does not look inside.
        """


class Observer(Protocol):
    """Compares the resources of one kind with each other, for each world. Pure."""

    def update(self, key: ResourceKey, manifest: Manifest | None) -> set[ResourceKey]:
        """Take in a resource as it is now (None: it is gone); return the others to reconcile because of its change."""

    def peers(self, key: ResourceKey, resource: Callable[[ResourceKey], Manifest | None]) -> object:
        """Return what the rule needs to know of the other resources, as `Observed.peers`.

        Args:
            key: the resource that is reconciled.
            resource: looks up a resource by its key.
        """


@dataclass(frozen=True, slots=True)
class ProbedPod:
    """A running pod whose readiness path the loop probes, because its container does not report in full itself."""

    name: str
    revision: str
    host: str
    port: int
    path: str
    capacity: int
    started: float
    """Unix time of the process's start."""
    ready: bool
    """By the kubelet's probe."""
    terminating: bool
    announces: bool = False
    """Whether it registers itself: then the loop does not report for it."""


@dataclass(frozen=True, slots=True)
class Reporters:
    """Who reports about a resource on NATS. What others reported is dropped."""

    pods: frozenset[str] = frozenset()
    """Names of the pods that serve."""
    fetches: bool = False
    """Whether something is there that fetches for it."""
    probed: tuple[ProbedPod, ...] = ()
    """The pods that the loop probes and, unless they register themselves, reports for."""


def no_reporters(resource: Manifest, observed: Observed) -> Reporters:
    """Nothing reports about the resource."""
    del resource, observed
    return Reporters()


@dataclass(frozen=True, slots=True)
class Controller:
    """What the loop runs for a kind."""

    reconcile: Rule
    observer: Callable[[], Observer] | None = None
    """Makes the observer of a world; None: the rule needs nothing of other resources of its kind."""
    reporters: Callable[[Manifest, Observed], Reporters] = no_reporters
    """Returns who reports about a resource, of the resource and what is observed of it. For ModelDeployments only: the
    subjects of reports (`headrace.events.subjects`) do not contain the kind."""
