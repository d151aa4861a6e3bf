"""Typed NATS messages: JSON on the wire, validated on receipt; unknown fields are ignored, so versions can be mixed.

A message carries a *state*, never an increment: a lost message delays information and corrupts nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import StrEnum
from itertools import islice
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_EXTRA_FIELDS = 32
"""Bound of what is kept of a replica's load besides the fields that all engines report."""
MAX_STAGES = 16
"""Bound of the stages that a replica reports; an engine has about five."""
UNCOMPUTED_TOKENS = "uncomputed_tokens"
"""Field of the LLM engine's load: tokens of its admitted requests that are not computed yet."""
_EXTRA_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Message(BaseModel):
    """Base of all messages: frozen, serialized by `encode` and `decode` only."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,  # not valid in JSON
        defer_build=True,  # a component uses a few of the messages, and a replica's start waits for its imports
    )

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
    """Requests queued because no replica has capacity."""
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
    """Load of a replica: fields that every engine reports, and additional numeric fields of one engine."""

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
        """Return this load with more fields of the engine's own. Raises ValueError for one that would not be kept."""
        if len(self.extra.keys() | fields.keys()) > MAX_EXTRA_FIELDS:
            raise ValueError(f"an engine's own load has at most {MAX_EXTRA_FIELDS} fields")
        for name, value in fields.items():
            if name in Load.model_fields or not _is_extra(name, value):
                raise ValueError(f"not a field of an engine's own load: {name!r}, {value!r}")
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
    stages: dict[Annotated[str, Field(max_length=64)], Annotated[int, Field(ge=0)]] = Field(
        default_factory=dict, max_length=MAX_STAGES
    )
    """How long the stages of loading took that have ended, in milliseconds, in their order."""
    kept_weights: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """Name of the object in the node's store that has the weights; empty: they are in memory of this replica."""
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


class Launch(Message):
    """What turns a standby pod into the replica of a model."""

    arguments: tuple[Annotated[str, Field(max_length=4096)], ...] = Field(max_length=256)
    """Of the runtime's command, with references `$(VARIABLE)` as in a pod template."""
    variables: dict[Annotated[str, Field(max_length=256)], Annotated[str, Field(max_length=4096)]] = Field(
        max_length=64
    )
    """Those that headrace sets in the pods of a model; a standby pod has the user's."""


class AdmittedNamespaces(Message):
    """The complete set of namespaces whose runtimes may log in to the broker."""

    namespaces: tuple[str, ...] = Field(max_length=10_000)


class AdmittedAnswer(Message):
    """The broker's response: the set is in force, unless there is a `refusal` with the reason."""

    refusal: str | None = None
