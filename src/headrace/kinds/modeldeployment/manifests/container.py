"""Container of a runtime pod, rendered from the profile of its runtime type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headrace import environment
from headrace.kinds.modeldeployment.manifests.common import RESTRICTED, from_field, model_path, runtime_environment
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.reconcile.world import Manifest, Settings
from headrace.runtimes.profile import GPU, Launch, LaunchAdapter, PlatformImage, Probe, RuntimeProfile
from headrace.termination import FALLBACK

WRITABLE_HOME = "/tmp"  # noqa: S108 - of a container
"""Home directory of the pods' user, who is in no image's list of users."""
_UNRESTRICTED = frozenset({"readOnlyRootFilesystem"})


def runtime_container(resource: ModelDeployment, revision: str, settings: Settings) -> Manifest:
    """Return the container with default resources, without the fields of `spec.template`."""
    runtime, source = resource.spec.runtime, resource.spec.model.source
    profile = runtime.profile
    path = model_path(source, settings) if source is not None else None
    adapters = tuple(
        LaunchAdapter(resource.adapter_name(each), model_path(each, settings)) for each in runtime.adapters
    )
    arguments = profile.arguments(Launch(resource.public_name, path, runtime.options, adapters))
    return {
        "image": _image(profile, resource, settings),
        "env": list(_environment(profile, resource, path, revision, settings)),
        "ports": [{"name": port.name, "containerPort": port.number} for port in profile.ports],
        "readinessProbe": _probe(profile.readiness),
        "resources": {name: dict(amounts) for name, amounts in profile.resources.items()},
        "securityContext": {
            name: value for name, value in RESTRICTED.items() if not (profile.writable_root and name in _UNRESTRICTED)
        },
        **({"command": list(profile.command)} if profile.command else {}),
        **({"args": list(arguments)} if arguments else {}),
        **({"livenessProbe": _probe(profile.liveness)} if profile.liveness is not None else {}),
        **({"terminationMessagePolicy": FALLBACK} if profile.quotes_log else {}),
    }


def _image(profile: RuntimeProfile, resource: ModelDeployment, settings: Settings) -> str:
    if not isinstance(profile.image, PlatformImage):
        return profile.image
    resources = resource.spec.template.resources
    if profile.image.gpu_key in settings.images and GPU in resources.requests.keys() | resources.limits.keys():
        return settings.images[profile.image.gpu_key]
    return settings.images[profile.image.key]


def _environment(
    profile: RuntimeProfile, resource: ModelDeployment, path: str | None, revision: str, settings: Settings
) -> Iterator[Manifest]:
    if profile.self_registers:
        yield from runtime_environment(resource, revision, settings)
    else:
        yield from_field(environment.POD_IP, "status.podIP")
    if profile.model_variables:
        yield {"name": environment.MODEL_NAME, "value": resource.public_name}
        if path is not None:
            yield {"name": environment.MODEL_PATH, "value": path}
    has_home = any(variable.name == "HOME" for variable in resource.spec.template.env)
    if profile.writable_root and settings.pod_security and not has_home:
        yield {"name": "HOME", "value": WRITABLE_HOME}


def _probe(probe: Probe) -> dict[str, Any]:
    seconds = {
        "periodSeconds": probe.period_seconds,
        "timeoutSeconds": probe.timeout_seconds,
        "initialDelaySeconds": probe.initial_delay_seconds,
    }
    return {
        "httpGet": {"path": probe.path, "port": "http"},
        **{name: value for name, value in seconds.items() if value is not None},
    }
