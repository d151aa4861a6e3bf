"""Entries of the buckets `headrace-routes` and `headrace-keys`.

The reconcile loop alone writes them; every gateway holds the whole table in memory and a copy on disk, so a request
never waits for a look-up and running models are served while NATS and the loop are away.
"""

from __future__ import annotations

from pydantic import Field

from headrace.events.messages import Message


class RevisionWeight(Message):
    """Share of new requests that a revision takes; the weights of a route sum to 100 (or there are none)."""

    revision: str = Field(max_length=63)
    weight_percent: int = Field(ge=0, le=100)
    operations: tuple[str, ...] = ()
    """What it serves (`headrace.routes.operations`). Empty: every operation, as in routes written by releases that name
    none."""

    capabilities: tuple[str, ...] = ()
    """Parts of the runtime protocol that it has (`headrace.api.vocabulary`)."""

    def serves(self, operation: str) -> bool:
        """Whether it serves an operation."""
        return not self.operations or operation in self.operations


class Engine(Message):
    """A revision whose replicas are brought containers.

    It stands in the route, which the loop alone writes, because a gateway asks whatever it names.
    """

    revision: str = Field(max_length=63)
    readiness_path: str = Field(max_length=1024, pattern=r"^/[!-~]*$")
    """What it answers with 200 when it can serve."""
    model_name: str | None = Field(default=None, max_length=1024)
    """What to write into a request's field `model`; None: what the client wrote."""
    announces: bool = False
    """Whether its replicas speak for themselves; else they know nothing of headrace, and the loop speaks for them."""


class Unavailable(Message):
    """Why requests are answered with 503 at once instead of being held."""

    reason: str = Field(max_length=64)
    message: str = Field(max_length=1024)
    retry_after_seconds: int = Field(default=10, ge=1)


class Route(Message):
    """One ModelDeployment as a gateway sees it. Replicas are not in here: they announce themselves."""

    namespace: str = Field(max_length=63)
    name: str = Field(max_length=63)
    public_name: str = Field(max_length=253)
    created: int = 0
    """Unix time of the resource's creation, for `/v1/models`."""
    revisions: tuple[RevisionWeight, ...] = ()
    engines: tuple[Engine, ...] = ()
    """Of the revisions that exist; those of our own runtimes are not named."""
    unavailable: Unavailable | None = None
    stage: str = Field(default="", max_length=64)
    """What the loop is doing for a model that cannot answer yet, kebab-case, e.g. `fetching` or `starting`."""
    max_queued_requests: int = Field(default=1000, ge=0)
    queue_timeout_seconds: int = Field(default=300, ge=1)

    @property
    def key(self) -> str:
        """The entry's key in the bucket."""
        return f"{self.namespace}.{self.name}"


class KeyGrant(Message):
    """What an API key opens: the models of a namespace, or those of its allow list."""

    namespace: str = Field(max_length=63)
    name: str = Field(max_length=253)
    """The Secret's name, for the access log; never the key."""
    models: tuple[str, ...] = ()
    """Public names; empty means all models of the namespace."""
