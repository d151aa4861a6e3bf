"""The typed messages. JSON on the wire, validated on arrival; unknown fields are ignored so that versions may mix.

A message carries a *state*, never an increment: losing one costs freshness, not truth.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import StrEnum
from itertools import islice
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_EXTRA_FIELDS = 32
"""Bound of what is kept of a replica's load besides the fields that all engines report."""
_EXTRA_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


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
    """How busy a replica is: what every engine reports, and numbers of its own, on the wire beside the others."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]

    queued: int = Field(default=0, ge=0)
    running: int = Field(default=0, ge=0)
    kv_tokens_used: int = Field(default=0, ge=0)
    kv_tokens_total: int = Field(default=0, ge=0)
    tokens_per_second: float = Field(default=0.0, ge=0)
    step_milliseconds: float = Field(default=0.0, ge=0)

    @property
    def extra(self) -> Mapping[str, float]:
        """Fields of the engine's own by name, for scorers and autoscalers that know them."""
        return self.__pydantic_extra__

    def with_extra(self, fields: Mapping[str, float]) -> Load:
        """Return this load with more fields of the engine's own."""
        return Load.model_validate({**self.model_dump(), **fields})

    @model_validator(mode="before")
    @classmethod
    def _keep_some(cls, data: object) -> object:
        """Keep the first `MAX_EXTRA_FIELDS` unknown fields that are numbers with short names; ignore the others."""
        if not isinstance(data, dict):
            return data
        known = {name: value for name, value in data.items() if name in cls.model_fields}
        extra = (item for item in data.items() if item[0] not in known and _is_extra(*item))
        return {**known, **dict(islice(extra, MAX_EXTRA_FIELDS))}


def _is_extra(name: object, value: object) -> bool:
    if not isinstance(name, str) or not _EXTRA_NAME.fullmatch(name):
        return False
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that is no float
        return False


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
