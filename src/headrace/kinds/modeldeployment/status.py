"""The status of a ModelDeployment, which only the reconcile loop writes.

These classes are the single source of the status schema in the CRD. Every field may be absent: a status is written from
the first reconcile pass on, and some fields only once there is something to record.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from headrace.api.parts import Conditions, Int64, Part, Time, described_by_its_list


class SourceStatus(Part):
    """The model's file as it was fetched."""

    uri: str | None = Field(default=None, max_length=2048, description="URI without credentials.")
    digest: str | None = Field(default=None, max_length=71, description="SHA-256 of the file, enforced from now on.")
    path: str | None = Field(default=None, max_length=1024, description="Path in the model directory.")
    bytes: Int64 | None = Field(default=None, description="Size of the file.")


class RevisionStatus(Part):
    """A revision that exists."""

    model_config = ConfigDict(json_schema_extra=described_by_its_list)

    name: str = Field(max_length=63, description="Hash of the revision.")
    weight_percent: Int64 | None = Field(default=None, description="Share of new requests, percent.")
    replicas: Int64 | None = Field(default=None, description="Wanted replicas.")
    ready_replicas: Int64 | None = Field(default=None, description="Replicas that every gateway routes to.")
    failure: str | None = Field(
        default=None,
        max_length=64,
        description="Why it is taken back as a canary: it gets no requests until the spec changes.",
    )


class ColdStartStatus(Part):
    """The last wake from zero, stage by stage."""

    start_time: Time | None = Field(default=None, description="When it was asked for.")
    queued_milliseconds: Int64 | None = Field(
        default=None, description="How long the oldest request had waited by then."
    )
    pod_milliseconds: Int64 | None = Field(default=None, description="From then until the runtime spoke first.")
    ready_milliseconds: Int64 | None = Field(default=None, description="From then until a gateway routed to it.")


class StartFailure(Part):
    """Why the model last could not start; gone once a start succeeds."""

    observed_generation: Int64 | None = Field(
        default=None, description="Generation that failed: a changed spec is not blamed for it."
    )
    reason: str | None = Field(default=None, max_length=64, description="CamelCase reason, as in the conditions.")
    message: str | None = Field(default=None, max_length=1024, description="What happened, for a person.")


class Status(Part):
    """What is true."""

    observed_generation: Int64 | None = Field(default=None, description="Generation that this status is about.")
    url: str | None = Field(default=None, max_length=2048, description="Base URL of the gateway.")
    public_name: str | None = Field(
        default=None, max_length=128, description="Public name that the resource has; nobody takes it away."
    )
    replicas: Int64 | None = Field(default=None, description="Replicas that exist.")
    ready_replicas: Int64 | None = Field(default=None, description="Replicas that every gateway routes to.")
    spec_replicas: Int64 | None = Field(
        default=None, description="spec.replicas as last seen: tells when it is changed in vain."
    )
    selector: str | None = Field(default=None, max_length=1024, description="Label selector of the runtime's pods.")
    capabilities: list[Annotated[str, Field(max_length=64)]] | None = Field(
        default=None,
        max_length=16,
        description="What the runtime can do for headrace; what is missing degrades by name.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    source: SourceStatus | None = None
    revisions: list[RevisionStatus] | None = Field(
        default=None,
        max_length=16,
        description="Revisions that exist, newest first.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    last_cold_start: ColdStartStatus | None = None
    start_failure: StartFailure | None = None
    replacing_for_capacity: bool | None = Field(
        default=None,
        description="Whether the stable revision is scaled down before the candidate is ready, because there was no "
        "capacity for both.",
    )
    conditions: Conditions | None = None
