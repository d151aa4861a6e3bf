"""A valid ModelDeployment, and the schema of the kind."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.api.kinds import MODEL_DEPLOYMENT
from headrace.api.schema import Manifest, Schema
from headrace.kinds.modeldeployment.rules import RULES
from headrace.kinds.modeldeployment.spec import Adapter, Spec
from headrace.kinds.modeldeployment.status import Status

SCHEMA = Schema(
    kind=MODEL_DEPLOYMENT,
    description="One served model: its source, its runtime and its scaling.",
    spec=Spec,
    status=Status,
    rules=RULES,
)


ADAPTER_SEPARATOR = ":"
"""Between the public name of a model and the name of its adapter."""


@dataclass(frozen=True, slots=True)
class ModelDeployment:
    """A valid resource."""

    namespace: str
    name: str
    uid: str
    generation: int
    created: str
    """creationTimestamp, RFC 3339; empty before the object is stored."""
    spec: Spec

    @property
    def public_name(self) -> str:
        """Value of the field `model` in requests."""
        return self.spec.model.name or self.name

    def adapter_name(self, adapter: Adapter) -> str:
        """Value of the field `model` in requests that use an adapter."""
        return f"{self.public_name}{ADAPTER_SEPARATOR}{adapter.name}"

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """The public names of all adapters."""
        return tuple(self.adapter_name(adapter) for adapter in self.spec.runtime.adapters)

    @staticmethod
    def parse(manifest: Manifest) -> ModelDeployment:
        """Return the resource; raises InvalidResource with all errors."""
        SCHEMA.validate(manifest)
        metadata = manifest["metadata"]
        return ModelDeployment(
            namespace=metadata.get("namespace", "default"),
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            generation=metadata.get("generation", 1),
            created=metadata.get("creationTimestamp", ""),
            spec=Spec.model_validate(manifest["spec"]),
        )
