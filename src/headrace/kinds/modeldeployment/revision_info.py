"""What a revision is, as one annotation of its Deployment.

Route, status and the control loop's reports need to know of every revision that has a Deployment: under which name and
on which port its pods serve, what they serve, and whether they register themselves. An old revision is in no spec, so
the record is stored with its Deployment. It is in the Deployment's own metadata, not in its template: a changed record
restarts no pod.
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
    """One revision."""

    runtime: str = Field(max_length=64)
    """Its runtime type."""
    public_name: str = Field(max_length=253)
    """The public name that its pods serve, for as long as requests go to the revision."""
    model_name: str | None = Field(default=None, max_length=1024)
    """Name by which its engine knows the model; None: the public name."""
    port: int = Field(ge=1, le=65535)
    readiness_path: str = Field(max_length=1024, pattern=r"^/[!-~]*$")
    self_registers: bool
    explains_unready: bool
    """See the field of that name in `headrace.runtimes.profile`."""
    capacity: int = Field(ge=1)
    """Requests that a replica takes at the same time."""
    operations: tuple[str, ...]
    capabilities: tuple[str, ...]


def revision_info(resource: ModelDeployment) -> RevisionInfo:
    """Return what the wanted revision of a resource is."""
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
    """Return what the revisions of a resource (in whatever state its spec is) are, read off their Deployments."""
    return {revision: _read(deployment, resource) for revision, deployment in deployments(observed).items()}


def _read(deployment: Manifest, resource: Manifest) -> RevisionInfo:
    """Return the record of a Deployment. One that somebody made unreadable counts as missing, and is written again."""
    text = deployment["metadata"].get("annotations", {}).get(v.REVISION_INFO_ANNOTATION, "")
    try:
        return RevisionInfo.decode(text.encode())
    except ValidationError:
        return _of_release_before(deployment, resource)


def _of_release_before(deployment: Manifest, resource: Manifest) -> RevisionInfo:
    """Return the record of a Deployment without one, which the builds before release 0.1.0 made.

    Remove this function, PUBLIC_NAME_ANNOTATION and ENGINE_MODEL_ANNOTATION after release 0.1.0: its operator writes
    the record into the Deployment of every wanted revision in its first pass, and old revisions leave with the rollout.
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
    """Return maxConcurrentRequests of a custom container, the default where the spec is invalid."""
    value = resource.get("spec")
    for name in ("runtime", "container", "maxConcurrentRequests"):
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, int) and value > 0 else CUSTOM_CONTAINER.capacity
