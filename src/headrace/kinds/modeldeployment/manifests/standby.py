"""Deployment of standby pods: generic processes of a runtime, which have loaded its libraries and become replicas."""

from __future__ import annotations

from headrace import environment
from headrace.api import vocabulary as v
from headrace.events.messages import Launch
from headrace.kinds.modeldeployment import MODEL_DEPLOYMENT
from headrace.kinds.modeldeployment.manifests.common import labels, metadata, short_hash
from headrace.kinds.modeldeployment.manifests.deployment import pod_spec
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.reconcile.world import Child, ChildKey, Manifest, Settings
from headrace.standby import COMMAND

_OF_A_REPLICA = frozenset({environment.MODEL_DEPLOYMENT, environment.REVISION, environment.GRACE_SECONDS})
_OF_AN_OWNER = "serviceAccountName"


def standby_spec(resource: ModelDeployment, settings: Settings) -> Manifest:
    """Return the spec of standby pods that can become replicas of a model: its pod spec without what is the model's."""
    pod = pod_spec(resource, "", settings)
    (container,) = pod["containers"]
    arguments = [COMMAND, "--host", f"$({environment.POD_IP})", "--port", str(resource.spec.runtime.profile.http_port)]
    variables = [each for each in container["env"] if each["name"] not in _OF_A_REPLICA]
    return {**pod, "containers": [{**container, "args": arguments, "env": variables}]}


def program_of(spec: Manifest) -> str:
    """Return the hash of the spec of standby pods: equal ones are interchangeable."""
    return short_hash({name: value for name, value in spec.items() if name != _OF_AN_OWNER})


def standby_deployment(resource: ModelDeployment, settings: Settings) -> Child:
    """Return the pool of standby pods, as a child of a model."""
    spec = standby_spec(resource, settings)
    program = program_of(spec)
    pod_labels = {
        **labels(resource, v.COMPONENT_STANDBY),
        v.STANDBY_LABEL: program,
        **resource.spec.runtime.profile.pod_labels,
    }
    manifest: Manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(
            resource, MODEL_DEPLOYMENT.child_name(resource.name, v.COMPONENT_STANDBY, program), pod_labels
        ),
        "spec": {
            "replicas": settings.standby_pods,
            "selector": {"matchLabels": pod_labels},
            "strategy": {"type": "Recreate"},
            "template": {"metadata": {"labels": pod_labels}, "spec": spec},
        },
    }
    return Child(ChildKey.of(manifest), manifest)


def launch_of(deployment: Manifest) -> Launch:
    """Return what turns a standby pod into a replica of an observed or rendered Deployment."""
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    variables = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    return Launch(
        arguments=tuple(container["args"]),
        variables={name: value for name, value in variables.items() if name in environment.SET_IN_PODS},
    )
