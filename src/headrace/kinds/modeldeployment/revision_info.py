"""Properties of a revision, stored in an annotation of its Deployment.

Route, status and the reconcile loop's reports need for every revision with a Deployment: name and port, operations, and
whether its pods register themselves. The spec has these only of the desired revision, so they are stored with the
Deployment: in its metadata and not in its template, so that a changed record restarts no pod.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationError

from headrace import environment
from headrace.api import vocabulary as v
from headrace.events.messages import Message
from headrace.kinds.modeldeployment.deployments import deployments
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.reconcile.world import Manifest, Observed
from headrace.runtimes.custom_container import CUSTOM_CONTAINER
from headrace.runtimes.llm import LLM
from headrace.runtimes.profile import RuntimeProfile
from headrace.runtimes.registry import PROFILES

MAX_PUBLIC_NAME, MAX_MODEL_NAME = 253, 1024
_Names = Annotated[tuple[Annotated[str, Field(max_length=64)], ...], Field(max_length=32)]


class RevisionInfo(Message):
    """Properties of one revision.

    Operators of several releases read and write it: unknown fields are ignored, and every field that is added later
    has a default, so that the record of a former release stays readable.
    """

    runtime: str = Field(max_length=64)
    """Runtime type."""
    public_name: str = Field(max_length=MAX_PUBLIC_NAME)
    """Public name of the model while the revision receives the requests."""
    model_name: str | None = Field(default=None, max_length=MAX_MODEL_NAME)
    """Name of the model in the engine's API; None: the public name."""
    port: int = Field(ge=1, le=65535)
    readiness_path: str = Field(max_length=1024, pattern=r"^/[!-~]*$")
    self_registers: bool
    explains_unready: bool
    """See the field of that name in `headrace.runtimes.profile`."""
    capacity: int = Field(ge=1)
    """Requests that a replica accepts at the same time."""
    operations: _Names
    capabilities: _Names
    adapters: tuple[Annotated[str, Field(max_length=MAX_PUBLIC_NAME)], ...] = Field(default=(), max_length=64)
    """Public names of the LoRA adapters."""


def revision_info(resource: ModelDeployment) -> RevisionInfo:
    """Return the properties of the desired revision."""
    profile = resource.spec.runtime.profile
    return RevisionInfo(
        runtime=profile.type,
        public_name=resource.public_name,
        model_name=profile.model_name,
        port=profile.http_port,
        readiness_path=profile.readiness.path,
        self_registers=profile.self_registers,
        explains_unready=profile.explains_unready,
        capacity=profile.capacity,
        operations=profile.operations,
        capabilities=profile.capabilities,
        adapters=resource.adapter_names,
    )


def revision_annotations(resource: ModelDeployment) -> dict[str, str]:
    """Return the annotations that describe the wanted revision on its Deployment."""
    return {v.REVISION_INFO_ANNOTATION: revision_info(resource).encode().decode(), **_former_annotations(resource)}


def _former_annotations(resource: ModelDeployment) -> dict[str, str]:
    """Return what the builds before release 0.1.0 read: after a rollback to one, gateways must not lose a container.

    Remove this function, PUBLIC_NAME_ANNOTATION and ENGINE_MODEL_ANNOTATION after release 0.1.0.
    """
    container = resource.spec.runtime.container
    engine = {} if container is None else {v.ENGINE_MODEL_ANNOTATION: container.model_name or ""}
    return {v.PUBLIC_NAME_ANNOTATION: resource.public_name, **engine}


def observed_revisions(observed: Observed, resource: Manifest) -> dict[str, RevisionInfo]:
    """Return the properties of a resource's revisions from their Deployments; its spec may be invalid."""
    return {revision: _read(deployment, resource) for revision, deployment in deployments(observed).items()}


def _read(deployment: Manifest, resource: Manifest) -> RevisionInfo:
    """Return the record of a Deployment. A missing or unreadable one is derived from its template."""
    text = deployment["metadata"].get("annotations", {}).get(v.REVISION_INFO_ANNOTATION, "")
    try:
        return RevisionInfo.decode(text.encode())
    except ValidationError:
        return _derived(deployment, resource)


def _derived(deployment: Manifest, resource: Manifest) -> RevisionInfo:
    """Return the record of a Deployment without a readable one.

    The runtime type is immutable, so the spec has it, whatever else in it is rejected. The rest is in the pod template;
    what is in no template (engine model name, capacity) is as in the present spec. The builds before release 0.1.0
    wrote no record, but the two annotations of `_former_annotations`; remove their reading with it.
    """
    annotations = deployment["metadata"].get("annotations", {})
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    variables = {variable["name"]: variable.get("value") for variable in container.get("env", [])}
    profile = _profile(annotations, resource)
    self_registers = environment.NATS_URL in variables  # reserved: no user can set it
    public_name = annotations.get(v.PUBLIC_NAME_ANNOTATION) or variables.get(environment.MODEL_NAME)
    public_name = public_name or _text(resource, "spec", "model", "name") or resource["metadata"]["name"]
    model_name = annotations.get(v.ENGINE_MODEL_ANNOTATION)
    if model_name is None:
        model_name = _text(resource, "spec", "runtime", profile.options, "modelName")
    return RevisionInfo(
        runtime=profile.type,
        public_name=public_name[:MAX_PUBLIC_NAME],
        model_name=model_name[:MAX_MODEL_NAME] or profile.model_name,
        port=container["ports"][0]["containerPort"],
        readiness_path=container["readinessProbe"]["httpGet"]["path"],
        self_registers=self_registers,
        explains_unready=profile.explains_unready,
        capacity=_capacity(resource, profile),
        operations=profile.operations,
        capabilities=profile.capabilities or (v.CONTRACT_CAPABILITIES if self_registers else ()),
    )


def _profile(annotations: Manifest, resource: Manifest) -> RuntimeProfile:
    if v.ENGINE_MODEL_ANNOTATION in annotations:
        return CUSTOM_CONTAINER
    return PROFILES.get(_text(resource, "spec", "runtime", "type"), LLM)


def _text(resource: Manifest, *path: str) -> str:
    """Return a field of a resource whose spec may be invalid; empty if it is no text."""
    value = _at(resource, *path)
    return value if isinstance(value, str) else ""


def _at(resource: Manifest, *path: str) -> object:
    value: object = resource
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _capacity(resource: Manifest, profile: RuntimeProfile) -> int:
    """Return maxConcurrentRequests of a resource, the default where the spec is invalid."""
    value = _at(resource, "spec", "runtime", profile.options, "maxConcurrentRequests")
    return value if isinstance(value, int) and value > 0 else profile.capacity
