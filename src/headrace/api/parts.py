"""Base class and shared types of the spec and status models of every kind."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Int64 = Annotated[int, Field(json_schema_extra={"format": "int64"})]


def _rfc3339(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("must have a time zone")
    return text


Time = Annotated[str, AfterValidator(_rfc3339), Field(json_schema_extra={"format": "date-time"})]


class Part(BaseModel):
    """Base of every part of a spec or status: camelCase in manifests, strict types, no unknown fields."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True, frozen=True, use_enum_values=True
    )


def described_by_its_list(schema: dict[str, Any]) -> None:
    """Drop the class's description from the schema of a list item, because the list has a description."""
    del schema["description"]


class Condition(Part):
    """A condition, as in every Kubernetes API."""

    model_config = ConfigDict(json_schema_extra=described_by_its_list)

    type: str = Field(max_length=64, description="Type of the condition.")
    status: Literal["True", "False", "Unknown"] = Field(description="Status of the condition.")
    reason: str = Field(max_length=64, description="CamelCase reason; part of the API.")
    message: str = Field(max_length=1024, description="Human-readable details.")
    observed_generation: Int64 | None = Field(
        default=None, description="metadata.generation that the condition was set for."
    )
    last_transition_time: Time = Field(description="Time of the last change of `status`.")


Conditions = Annotated[
    list[Condition],
    Field(
        max_length=16,
        description="Conditions, one entry per type.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


class StatusPart(Part):
    """Base of the status of a kind: every kind has the condition Ready."""

    conditions: Conditions | None = None
