"""Entries of the buckets `headrace-routes` and `headrace-keys`.

Only the reconcile loop writes them. Every gateway holds the whole table in memory and a copy on disk, so a request
never waits for a look-up, and running models are served while NATS and the reconcile loop are unavailable.
"""

from __future__ import annotations

from pydantic import Field

from headrace.events.messages import Message


class RevisionWeight(Message):
    """Share of new requests that a revision receives; the weights of a route sum to 100, or there are none."""

    revision: str = Field(max_length=63)
    weight_percent: int = Field(ge=0, le=100)
    operations: tuple[str, ...] = ()
    """Operations that it serves (`headrace.routes.operations`). Empty: all, as in routes of releases without this
    field."""

    capabilities: tuple[str, ...] = ()
    """Parts of the runtime protocol that it has (`headrace.api.vocabulary`)."""

    adapters: tuple[str, ...] = ()
    """Public names of its LoRA adapters."""

    def serves(self, operation: str, adapter: str = "") -> bool:
        """Whether the revision serves an operation, with an adapter if one is named."""
        return (not self.operations or operation in self.operations) and (not adapter or adapter in self.adapters)


class Engine(Message):
    """A revision that needs more than its weight: it does not register itself, or has another readiness path or model.

    It is part of the route, which only the reconcile loop writes, because a gateway sends probes to this path.
    """

    revision: str = Field(max_length=63)
    readiness_path: str = Field(max_length=1024, pattern=r"^/[!-~]*$")
    """Path whose GET returns 200 when a replica is ready."""
    model_name: str | None = Field(default=None, max_length=1024)
    """Value for the field `model` of forwarded requests; None: the client's value."""
    announces: bool = False
    """Whether its replicas register themselves; otherwise the reconcile loop publishes their reports."""


class Unavailable(Message):
    """Why requests are rejected with 503 at once instead of being queued."""

    reason: str = Field(max_length=64)
    message: str = Field(max_length=1024)
    retry_after_seconds: int = Field(default=10, ge=1)


class Route(Message):
    """The route of one ModelDeployment. It does not contain replicas, which gateways learn from their reports."""

    namespace: str = Field(max_length=63)
    name: str = Field(max_length=63)
    public_name: str = Field(max_length=253)
    created: int = 0
    """Unix time of the resource's creation, for `/v1/models`."""
    revisions: tuple[RevisionWeight, ...] = ()
    engines: tuple[Engine, ...] = ()
    """Engines of the existing revisions that need one."""
    unavailable: Unavailable | None = None
    stage: str = Field(default="", max_length=64)
    """Startup stage of a model that is not ready yet, kebab-case, e.g. `fetching` or `starting`."""
    max_queued_requests: int = Field(default=1000, ge=0)
    queue_timeout_seconds: int = Field(default=300, ge=1)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The public names of the adapters that requests may use."""
        return tuple(dict.fromkeys(name for each in self.revisions if each.weight_percent for name in each.adapters))

    @property
    def key(self) -> str:
        """The entry's key in the bucket."""
        return f"{self.namespace}.{self.name}"


class KeyGrant(Message):
    """Access of an API key: all models of a namespace, or those of its allow list."""

    namespace: str = Field(max_length=63)
    name: str = Field(max_length=253)
    """The Secret's name, for the access log; never the key."""
    models: tuple[str, ...] = ()
    """Allowed public names; empty: all models of the namespace."""
