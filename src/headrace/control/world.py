"""Interface between the reconcile loop and a cluster: `World`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from headrace.api.vocabulary import REFUSED
from headrace.errors import HeadraceError
from headrace.reconcile.world import Child, ChildKey, Conversion, Event, Manifest, Observed, ResourceKey
from headrace.routes import KeyGrant


class ChildRefused(HeadraceError):
    """The world refuses a child; an immediate retry would be refused again.

    Args:
        message: the world's error message.
        hint: how to fix it.
        retry_seconds: when to apply it again, because a policy may have changed without notice. None: only once the
            child or the resource has changed.
    """

    http_status = 422
    reason = REFUSED

    def __init__(self, message: str, *, hint: str = "", retry_seconds: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_seconds = retry_seconds


def not_ours(child: ChildKey, owner: ResourceKey) -> str:
    """Return the error for a child whose name is used by an object with another owner."""
    where = f" in namespace {child.namespace}" if child.namespace else ""
    return (
        f"{child.kind} {child.name} exists{where} and has another owner. "
        f"Delete it, or give the {owner.kind} {owner.name} another name"
    )


Changed = Callable[[ResourceKey | None], None]
"""Callback for a change of a resource, its children or its pods; None: the API keys changed."""


class World(Protocol):
    """A local cluster or an API server. Reads are served from memory and never block; writes may take time."""

    def subscribe(self, changed: Changed) -> None:
        """Call `changed` after every change from now on, in the event loop's thread."""

    def keys(self) -> list[ResourceKey]:
        """Return every resource, and the owner of every cluster-scoped child whose owner no longer exists."""

    def resource(self, key: ResourceKey) -> Manifest | None:
        """Return the resource, or None if it does not exist."""

    def observe(self, key: ResourceKey) -> Observed:
        """Return the children and pods of the resource, also of a deleted one."""

    def api_keys(self) -> Mapping[str, KeyGrant]:
        """Return the access of each API key, by its entry's name in the bucket (`headrace.routes.api_keys`)."""

    async def apply(self, owner: ResourceKey, child: Child) -> None:
        """Create or update the child, unless it is already equal. Raises ChildRefused."""

    async def delete(self, owner: ResourceKey, child: ChildKey) -> None:
        """Delete the child and its pods, with their grace period, if it exists.

        In a cluster, Kubernetes deletes the children of a deleted resource.
        """

    async def set_routable(self, owner: ResourceKey, pods: frozenset[str]) -> None:
        """Set the readiness gate `headrace.dev/routable` of the resource's pods: True for these, False for others."""

    async def convert(self, owner: ResourceKey, conversion: Conversion) -> str | None:
        """Let a standby pod replace a starting replica of the resource, and return its name; None: there is none."""

    def keep_objects(self, owner: ResourceKey, names: frozenset[str]) -> None:
        """Let node agents pin these objects of the resource's namespace, and no longer those of the call before."""

    async def write_status(self, key: ResourceKey, status: Manifest) -> None:
        """Write the status of the resource, unless it is equal or the resource does not exist."""

    async def record(self, key: ResourceKey, event: Event) -> None:
        """Record an event about the resource."""
