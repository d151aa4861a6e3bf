"""The container of our own LLM runtime."""

from __future__ import annotations

from headrace import environment
from headrace.kinds.modeldeployment.manifests.common import RESTRICTED, model_path, runtime_environment
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.kinds.modeldeployment.spec import LLMRuntime, Source
from headrace.reconcile import images
from headrace.reconcile.world import Manifest, Settings

PORT = 8000
LIVENESS_PERIOD_SECONDS = 10
GPU = "nvidia.com/gpu"
"""The resource by which a template asks for a GPU, and so for the image that can use one."""


def llm_container(resource: ModelDeployment, source: Source, revision: str, settings: Settings) -> Manifest:
    """Return the container, without what the template lays over it."""
    spec = resource.spec
    llm = spec.runtime.llm or LLMRuntime()
    return {
        "image": _image(resource, settings),
        "command": ["headrace-llm"],
        "args": [
            *("serve", model_path(source, settings)),
            *("--served-model-name", resource.public_name),
            *("--host", f"$({environment.POD_IP})"),
            *("--port", str(PORT)),
            *("--max-model-len", str(llm.max_model_len)),
            *("--max-concurrent-requests", str(llm.max_concurrent_requests)),
        ],
        "env": runtime_environment(resource, revision, settings),
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/health/ready", "port": "http"}, "periodSeconds": 1},
        "livenessProbe": {
            "httpGet": {"path": "/health/live", "port": "http"},
            "periodSeconds": LIVENESS_PERIOD_SECONDS,
            "timeoutSeconds": 5,
            "initialDelaySeconds": LIVENESS_PERIOD_SECONDS,
        },
        "securityContext": RESTRICTED,
    }


def _image(resource: ModelDeployment, settings: Settings) -> str:
    resources = resource.spec.template.resources
    if images.RUNTIME_CUDA in settings.images and GPU in resources.requests.keys() | resources.limits.keys():
        return settings.images[images.RUNTIME_CUDA]
    return settings.images[images.RUNTIME]
