"""The container of an engine that somebody brings (`runtime.type: Container`).

Most know nothing of headrace. Such a one is told nothing but its model and its address, and gets no login to NATS: the
control loop speaks for it (`headrace.control.spokesman`). One that announces itself is told who it is, as our own are.
Its root file system may be written, because most engines write caches into it, and a volume for them would cost wake
time. There is no liveness probe: how long an engine may be too busy to answer is known to who brings it alone. One that
does not answer its readiness probe gets no requests.
"""

from __future__ import annotations

from headrace import environment
from headrace.kinds.modeldeployment.last_words import FALLBACK
from headrace.kinds.modeldeployment.manifests.common import RESTRICTED, from_field, model_path, runtime_environment
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.kinds.modeldeployment.spec import ContainerRuntime
from headrace.reconcile.world import Manifest, Settings

WRITABLE_HOME = "/tmp"  # noqa: S108 - of a container
"""The user of our pods is in no image's list of users, and so has no home of its own."""
_UNRESTRICTED = frozenset({"readOnlyRootFilesystem"})


def brought_container(
    resource: ModelDeployment, engine: ContainerRuntime, revision: str, settings: Settings
) -> Manifest:
    """Return the container, without what the template lays over it."""
    address = [from_field(environment.POD_IP, "status.podIP")]
    source = resource.spec.model.source
    container: Manifest = {
        "image": engine.image,
        "env": [
            *(runtime_environment(resource, revision, settings) if engine.announces else address),
            {"name": environment.MODEL_NAME, "value": resource.public_name},
        ],
        "ports": [{"name": "http", "containerPort": engine.port}],
        "readinessProbe": {
            "httpGet": {"path": engine.readiness_path, "port": "http"},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
        },
        "securityContext": {name: value for name, value in RESTRICTED.items() if name not in _UNRESTRICTED},
        "terminationMessagePolicy": FALLBACK,
    }
    if source is not None:
        container["env"].append({"name": environment.MODEL_PATH, "value": model_path(source, settings)})
    if settings.pod_security and all(variable.name != "HOME" for variable in resource.spec.template.env):
        container["env"].append({"name": "HOME", "value": WRITABLE_HOME})
    if engine.command:
        container["command"] = list(engine.command)
    if engine.args:
        container["args"] = list(engine.args)
    return container
