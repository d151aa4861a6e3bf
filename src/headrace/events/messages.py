"""Typed NATS messages: JSON on the wire, validated on receipt; unknown fields are ignored, so versions can be mixed.

A message carries a *state*, never an increment: a lost message delays information and corrupts nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field


class Message(BaseModel):
    """Base of all messages: frozen, serialized by `encode` and `decode` only."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)  # not valid in JSON

    def encode(self) -> bytes:
        """Return the JSON bytes."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Return the message; raises pydantic.ValidationError for an invalid payload."""
        return cls.model_validate_json(payload)


class Demand(Message):
    """Demand for one model at one gateway."""

    gateway: str = Field(max_length=128)
    queued: int = Field(ge=0)
    """Requests queued because no replica can take them."""
    in_flight: int = Field(ge=0)
    """Requests forwarded and not finished yet."""
    queue_delay_milliseconds: float = Field(default=0.0, ge=0)
    """Age of the oldest queued request, or the longest delay of those dequeued in the last second."""


class ReplicaState(StrEnum):
    """State in the lifecycle of a replica."""

    LOADING = "Loading"
    READY = "Ready"
    DRAINING = "Draining"


class Load(Message):
    """How busy a replica is."""

    queued: int = Field(default=0, ge=0)
    running: int = Field(default=0, ge=0)
    kv_tokens_used: int = Field(default=0, ge=0)
    kv_tokens_total: int = Field(default=0, ge=0)
    tokens_per_second: float = Field(default=0.0, ge=0)
    step_milliseconds: float = Field(default=0.0, ge=0)


class ReplicaReport(Message):
    """The state of a replica. `started` and `sequence` order the reports of one pod name across restarts.

    The reconcile loop publishes it for a replica that does not register itself, with the address from the API server.
    A self-registering replica publishes an `Announcement`.
    """

    pod: str = Field(max_length=253)
    revision: str = Field(max_length=63)
    host: str = Field(max_length=64)
    port: int = Field(ge=1, le=65535)
    started: float
    """Unix time of the process's start."""
    sequence: int = Field(ge=0)
    state: ReplicaState
    stage: str = Field(default="", max_length=64, pattern=r"^[a-z0-9-]*$")
    """Stage while Loading: `starting`, `loading-weights`, `warming-up`. It is shown to waiting clients."""
    percent: int | None = Field(default=None, ge=0, le=100)
    capacity: int = Field(default=1, ge=1)
    """Requests that the replica accepts at the same time (running and queued inside); a gateway sends no more."""
    load: Load = Load()


class Announcement(ReplicaReport):
    """The report of a self-registering replica. A gateway trusts its address only after the process has proven it."""

    secret: str = Field(pattern=r"^[A-Za-z0-9_-]{43}$", repr=False)
    """32 random bytes that the process generated at its start, in base64url (see `headrace.events.secret`). Only
    gateways and the reconcile loop may subscribe to reports."""


class Admission(Message):
    """A gateway's acknowledgement of a replica's state: it routes to the replica (Ready), or no longer (Draining)."""

    gateway: str = Field(max_length=128)
    pod: str = Field(max_length=253)
    started: float
    """`started` of the acknowledged report."""
    state: ReplicaState


class FetchProgress(Message):
    """Progress of the fetch Job of a model."""

    uri: str = Field(max_length=2048)
    """The source URI without credentials."""
    received_bytes: int = Field(ge=0)
    total_bytes: int | None = Field(default=None, ge=0)

    @property
    def percent(self) -> int | None:
        """Percentage as an integer; None while the size is unknown."""
        if not self.total_bytes:
            return None
        return min(100, self.received_bytes * 100 // self.total_bytes)


class AdmittedNamespaces(Message):
    """The complete set of namespaces whose runtimes may log in to the broker."""

    namespaces: tuple[str, ...] = Field(max_length=10_000)


class AdmittedAnswer(Message):
    """The broker's response: the set is in force, unless there is a `refusal` with the reason."""

    refusal: str | None = None
