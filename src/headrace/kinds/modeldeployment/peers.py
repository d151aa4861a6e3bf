"""State of the other ModelDeployments of a namespace that affects one of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from headrace.kinds.modeldeployment.fetchers import Fetchers
from headrace.kinds.modeldeployment.pools import Pools
from headrace.kinds.modeldeployment.public_names import Names
from headrace.reconcile.world import Manifest, Observed, ResourceKey


@dataclass(frozen=True, slots=True)
class Peers:
    """State of other resources that affects one resource."""

    names_taken: Mapping[str, str] = field(default_factory=dict)
    """Names that another resource owns, with the owner's name (`public_names`)."""
    fetcher: Manifest | None = None
    """The other resource that fetches the same source (`fetchers`)."""
    pool: ResourceKey | None = None
    """The resource with the pool of standby pods, which may be this one (`pools`)."""


def peers_of(observed: Observed) -> Peers:
    """Return the observed peers; empty without an observer."""
    return observed.peers if isinstance(observed.peers, Peers) else Peers()


class PeerObserver:
    """Compares all ModelDeployments of a world (`headrace.kinds.controller.Observer`)."""

    def __init__(self) -> None:
        self._names = Names()
        self._fetchers = Fetchers()
        self._pools = Pools()

    def update(self, key: ResourceKey, manifest: Manifest | None) -> set[ResourceKey]:
        """Update with the present state of a resource; return those that wait for its name, fetch or pool."""
        parts = (self._names, self._fetchers, self._pools)
        return {other for part in parts for other in part.update(key, manifest)}

    def peers(self, key: ResourceKey, resource: Callable[[ResourceKey], Manifest | None]) -> Peers:
        """Return the peers of a resource."""
        other = self._fetchers.other(key)
        return Peers(self._names.taken(key), None if other is None else resource(other), self._pools.of(key))
