"""Properties of a revision, stored in an annotation of its Deployment.

Route, status and the reconcile loop's reports need for every revision with a Deployment: name and port, operations, and
whether its pods register themselves. The spec has these only of the desired revision, so they are stored with the
Deployment: in its metadata and not in its template, so that a changed record restarts no pod.
"""

from __future__ import annotations

from pydantic import Field, ValidationError

from headrace.api import vocabulary as v
from headrace.events.messages import Message
from headrace.kinds.modeldeployment.deployments import deployments
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.reconcile.world import Manifest, Observed
from headrace.runtimes.custom_container import CUSTOM_CONTAINER
from headrace.runtimes.llm import LLM


class RevisionInfo(Message):
    """Properties of one revision."""

    runtime: str = Field(max_length=64)
    """Runtime type."""
    public_name: str = Field(max_length=253)
    """Public name of the model while the revision receives the requests."""
    model_name: str | None = Field(default=None, max_length=1024)
    """Name of the model in the engine's API; None: the public name."""
    port: int = Field(ge=1, le=65535)
    readiness_path: str = Field(max_length=1024, pattern=r"^/[!-~]*$")
    self_registers: bool
    explains_unready: bool
    """See the field of that name in `headrace.runtimes.profile`."""
    capacity: int = Field(ge=1)
    """Requests that a replica accepts at the same time."""
    operations: tuple[str, ...]
    capabilities: tuple[str, ...]


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
    )


def observed_revisions(observed: Observed, resource: Manifest) -> dict[str, RevisionInfo]:
    """Return the properties of a resource's revisions from their Deployments; its spec may be invalid."""
    return {revision: _read(deployment, resource) for revision, deployment in deployments(observed).items()}


def _read(deployment: Manifest, resource: Manifest) -> RevisionInfo:
    """Return the record of a Deployment. An unreadable record counts as missing, and is written again."""
    text = deployment["metadata"].get("annotations", {}).get(v.REVISION_INFO_ANNOTATION, "")
    try:
        return RevisionInfo.decode(text.encode())
    except ValidationError:
        return _of_release_before(deployment, resource)


def _of_release_before(deployment: Manifest, resource: Manifest) -> RevisionInfo:
    """Return the record of a Deployment without one, which a build before release 0.1.0 created.

    Remove this function, PUBLIC_NAME_ANNOTATION and ENGINE_MODEL_ANNOTATION after release 0.1.0: its operator writes
    the record into the Deployment of every desired revision in its first pass; others are deleted by their rollout.
    """
    metadata, template = deployment["metadata"], deployment["spec"]["template"]["spec"]["containers"][0]
    annotations = metadata.get("annotations", {})
    custom = v.ENGINE_MODEL_ANNOTATION in annotations
    self_registers = not custom or v.ANNOUNCES_LABEL in metadata.get("labels", {})
    profile = CUSTOM_CONTAINER if custom else LLM
    return RevisionInfo(
        runtime=profile.type,
        public_name=annotations.get(v.PUBLIC_NAME_ANNOTATION) or resource["metadata"]["name"],
        model_name=annotations.get(v.ENGINE_MODEL_ANNOTATION) or None,
        port=template["ports"][0]["containerPort"],
        readiness_path=template["readinessProbe"]["httpGet"]["path"],
        self_registers=self_registers,
        explains_unready=profile.explains_unready,
        capacity=_capacity(resource) if custom else profile.capacity,
        operations=profile.operations,
        capabilities=v.CONTRACT_CAPABILITIES if self_registers else (),
    )


def _capacity(resource: Manifest) -> int:
    """Return maxConcurrentRequests of a custom container, the default if the spec is invalid."""
    value = resource.get("spec")
    for name in ("runtime", "container", "maxConcurrentRequests"):
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, int) and value > 0 else CUSTOM_CONTAINER.capacity
