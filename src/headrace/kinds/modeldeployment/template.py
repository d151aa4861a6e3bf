"""Fields of `spec.template`: what users add to the pods of a ModelDeployment."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from headrace.api.parts import Part
from headrace.api.quantity import Quantity

Label = Annotated[str, Field(max_length=253)]


class EnvVar(Part):
    """An environment variable of the runtime's container."""

    name: str = Field(
        min_length=1, max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Name of the variable."
    )
    value: str = Field(default="", max_length=4096, description="Value of the variable.")


class Resources(Part):
    """Compute resources of the runtime's container."""

    requests: dict[Label, Quantity] = Field(
        default_factory=dict, max_length=16, description="Requested amounts, as Kubernetes quantities: 2, 500m, 8Gi."
    )
    limits: dict[Label, Quantity] = Field(
        default_factory=dict, max_length=16, description="Maximum amounts, as Kubernetes quantities: 2, 500m, 8Gi."
    )


class Toleration(Part):
    """A taint that the pods tolerate."""

    key: str | None = Field(default=None, max_length=253, description="Key of the taint.")
    operator: Literal["Exists", "Equal"] = Field(default="Equal", description="Comparison of the value.")
    value: str | None = Field(default=None, max_length=253, description="Value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint; absent: all."
    )


class Template(Part):
    """Additions to the pod template of the runtime."""

    env: list[EnvVar] = Field(
        default_factory=list,
        max_length=64,
        description="Environment variables of the runtime. Variables that headrace sets (such as HEADRACE_POD_IP) are "
        "rejected.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    resources: Resources = Field(default_factory=Resources, description="Compute resources; ignored in local mode.")
    node_selector: dict[Label, Label] = Field(
        default_factory=dict, max_length=32, description="Labels that a node must have; ignored in local mode."
    )
    tolerations: list[Toleration] = Field(
        default_factory=list,
        max_length=32,
        description="Taints that the pods tolerate; ignored in local mode.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
