"""Status of a ModelDeployment, written by the reconcile loop only.

These classes are the single source of the status schema in the CRD. Every field may be absent: the first reconcile pass
writes the status, and some fields are set later.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from headrace.api.parts import Int64, Part, StatusPart, Time, described_by_its_list
from headrace.events.messages import MAX_STAGES


class SourceStatus(Part):
    """The fetched file of the model."""

    uri: str | None = Field(default=None, max_length=2048, description="URI without credentials.")
    digest: str | None = Field(default=None, max_length=71, description="SHA-256 of the file, enforced from now on.")
    path: str | None = Field(default=None, max_length=1024, description="Path in the model directory.")
    bytes: Int64 | None = Field(default=None, description="Size of the file.")


class AdapterStatus(SourceStatus):
    """The fetched file of a LoRA adapter."""

    model_config = ConfigDict(json_schema_extra=described_by_its_list)

    name: str = Field(max_length=63, description="Name of the adapter.")
    reason: str | None = Field(
        default=None, max_length=64, description="Cached, or why it is not: as the reasons of ModelCached."
    )
    message: str | None = Field(default=None, max_length=1024, description="Human-readable details.")


class RevisionStatus(Part):
    """An existing revision."""

    model_config = ConfigDict(json_schema_extra=described_by_its_list)

    name: str = Field(max_length=63, description="Hash of the revision.")
    weight_percent: Int64 | None = Field(default=None, description="Share of new requests, in percent.")
    replicas: Int64 | None = Field(default=None, description="Desired replicas.")
    ready_replicas: Int64 | None = Field(default=None, description="Replicas that every gateway routes to.")
    failure: str | None = Field(
        default=None,
        max_length=64,
        description="Reason for which the canary was rolled back; it gets no requests until the spec changes.",
    )


class StageStatus(Part):
    """A stage of loading a model."""

    model_config = ConfigDict(json_schema_extra=described_by_its_list)

    name: str = Field(max_length=64, description="Name of the stage.")
    milliseconds: Int64 | None = Field(default=None, description="How long it took.")


class ColdStartStatus(Part):
    """Stages of the last cold start from zero."""

    start_time: Time | None = Field(default=None, description="When the cold start began.")
    queued_milliseconds: Int64 | None = Field(
        default=None, description="Age of the oldest queued request at startTime."
    )
    pod_milliseconds: Int64 | None = Field(
        default=None, description="Time from startTime until the first report of the runtime."
    )
    ready_milliseconds: Int64 | None = Field(
        default=None, description="Time from startTime until a gateway routed to the replica."
    )
    stages: list[StageStatus] | None = Field(
        default=None,
        max_length=MAX_STAGES,
        description="Stages of the start that the runtime reported, in their order. The LLM runtime loads "
        "weights in one of these: mapping-weights (the node held them), storing-weights (the node holds them from now "
        "on), loading-weights (for this replica alone). Its last one is first-token: from Ready to the first token.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )


class KeptOn(Part):
    """A node that keeps the weights."""

    model_config = ConfigDict(json_schema_extra=described_by_its_list)

    node: str = Field(max_length=253, description="Name of the node.")
    object: str | None = Field(default=None, max_length=64, description="Name of the object in its store.")


class StartFailure(Part):
    """The last failure to start the model; removed when a start succeeds."""

    observed_generation: Int64 | None = Field(
        default=None, description="metadata.generation that failed to start; later generations are not affected."
    )
    reason: str | None = Field(default=None, max_length=64, description="CamelCase reason, as in the conditions.")
    message: str | None = Field(default=None, max_length=1024, description="Human-readable details.")


class Status(StatusPart):
    """The observed state."""

    observed_generation: Int64 | None = Field(
        default=None, description="metadata.generation that this status describes."
    )
    url: str | None = Field(default=None, max_length=2048, description="Base URL of the gateway.")
    public_name: str | None = Field(
        default=None, max_length=128, description="Public name that is reserved for the resource."
    )
    replicas: Int64 | None = Field(default=None, description="Existing replicas.")
    ready_replicas: Int64 | None = Field(default=None, description="Replicas that every gateway routes to.")
    spec_replicas: Int64 | None = Field(
        default=None, description="Last observed spec.replicas, to detect changes that spec.scaling overrides."
    )
    selector: str | None = Field(default=None, max_length=1024, description="Label selector of the runtime's pods.")
    capabilities: list[Annotated[str, Field(max_length=64)]] | None = Field(
        default=None,
        max_length=16,
        description="Capabilities of the runtime: LoadReports, Drain, Progress.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    source: SourceStatus | None = None
    adapters: list[AdapterStatus] | None = Field(
        default=None,
        max_length=16,
        description="Files of the LoRA adapters.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    revisions: list[RevisionStatus] | None = Field(
        default=None,
        max_length=16,
        description="Existing revisions, newest first.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    keep: str | None = Field(
        default=None,
        max_length=16,
        description="What outlives replicas here: as spec.scaling.coldStart.keep, or less: "
        "Nothing instead of Weights if nodes have no node agent, and Weights instead of Process if there are no "
        "standby pods (operator.standbyPods; never for pods with a GPU). Absent if nothing is to be kept.",
    )
    kept_on: list[KeptOn] | None = Field(
        default=None,
        max_length=16,
        description="Nodes that keep the weights: the next replicas prefer them.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["node"]},
    )
    last_cold_start: ColdStartStatus | None = None
    start_failure: StartFailure | None = None
    replacing_for_capacity: bool | None = Field(
        default=None,
        description="Whether the stable revision is scaled down before the candidate is ready, because there was no "
        "capacity for both.",
    )
