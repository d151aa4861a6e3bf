"""The typed messages. JSON on the wire, validated on arrival; unknown fields are ignored so that versions may mix.

A message carries a *state*, never an increment: losing one costs freshness, not truth.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field


class Message(BaseModel):
    """Base: frozen; `encode` and `decode` are the only way onto and off the wire."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)  # JSON cannot say them back

    def encode(self) -> bytes:
        """Return the JSON bytes."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Return the message; raises pydantic.ValidationError on a payload that is not one."""
        return cls.model_validate_json(payload)


class Demand(Message):
    """What one gateway knows of the demand for one model."""

    gateway: str = Field(max_length=128)
    queued: int = Field(ge=0)
    """Requests held because no replica could take them."""
    in_flight: int = Field(ge=0)
    """Requests forwarded and not yet finished."""
    queue_delay_milliseconds: float = Field(default=0.0, ge=0)
    """Age of the oldest held request, or the longest wait of those released in the last second."""


class ReplicaState(StrEnum):
    """Where a replica is in its life."""

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

    As it is, the reconcile loop publishes it for a replica that does not register itself, at the address that the API
    server has. A replica that registers itself publishes an `Announcement`.
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
    """What it is doing while Loading: `starting`, `loading-weights`, `warming-up`. People read it in their streams."""
    percent: int | None = Field(default=None, ge=0, le=100)
    capacity: int = Field(default=1, ge=1)
    """Requests that it takes at once (running and queued inside); a gateway sends no more."""
    load: Load = Load()


class Announcement(ReplicaReport):
    """The report of a self-registering replica. Its address is a claim until the process there has proven it."""

    secret: str = Field(pattern=r"^[A-Za-z0-9_-]{43}$", repr=False)
    """32 random bytes that the process made at its start, in base64url (see `headrace.events.secret`). Gateways and
    the reconcile loop alone may subscribe to reports."""


class Admission(Message):
    """A gateway acknowledges a replica's state: it routes to it (Ready), or has stopped to (Draining)."""

    gateway: str = Field(max_length=128)
    pod: str = Field(max_length=253)
    started: float
    """The `started` of the report that is acknowledged."""
    state: ReplicaState


class FetchProgress(Message):
    """How far the fetch child of a model is."""

    uri: str = Field(max_length=2048)
    """The source URI without credentials."""
    received_bytes: int = Field(ge=0)
    total_bytes: int | None = Field(default=None, ge=0)

    @property
    def percent(self) -> int | None:
        """Whole percent, or None while the size is unknown."""
        if not self.total_bytes:
            return None
        return min(100, self.received_bytes * 100 // self.total_bytes)


class AdmittedNamespaces(Message):
    """The namespaces whose runtimes the broker should let in: all of them; who is not named is shut out."""

    namespaces: tuple[str, ...] = Field(max_length=10_000)


class AdmittedAnswer(Message):
    """The broker obeys the set now; or, with a `refusal`, it does not, and why."""

    refusal: str | None = None
