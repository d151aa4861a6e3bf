"""What the models of every kind's spec and status are built of."""

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
    """Base of every part of a spec or status: camelCase outside, strict, and closed to unknown fields."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True, frozen=True, use_enum_values=True
    )


def described_by_its_list(schema: dict[str, Any]) -> None:
    """Drop the class's description from the schema (`json_schema_extra` of a list's item): the list has one."""
    del schema["description"]


class Condition(Part):
    """A condition, as every Kubernetes API has it."""

    model_config = ConfigDict(json_schema_extra=described_by_its_list)

    type: str = Field(max_length=64, description="Type of the condition.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(max_length=64, description="CamelCase reason; part of the API.")
    message: str = Field(max_length=1024, description="What is the case, for a person.")
    observed_generation: Int64 | None = Field(default=None, description="Generation that this was observed at.")
    last_transition_time: Time = Field(description="Last change of status.")


Conditions = Annotated[
    list[Condition],
    Field(
        max_length=16,
        description="What holds and what does not, one entry per type.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]
