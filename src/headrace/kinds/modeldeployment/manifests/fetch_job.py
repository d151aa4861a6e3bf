"""The Job that brings a source's file into the model directory."""

from __future__ import annotations

from headrace import environment
from headrace.api.vocabulary import COMPONENT_FETCH
from headrace.kinds.modeldeployment import MODEL_DEPLOYMENT
from headrace.kinds.modeldeployment.manifests.common import (
    RESTRICTED,
    environment_of,
    labels,
    metadata,
    pod_basics,
    short_hash,
)
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.kinds.modeldeployment.spec import Source
from headrace.reconcile.images import FETCH
from headrace.reconcile.world import Child, ChildKey, Manifest, Settings
from headrace.sources.location import claim_of

CA_VOLUME = "ca"
CA_DIRECTORY = "/etc/headrace/ca"
CA_KEY = "ca.crt"
CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")
RESOURCES = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
"""Files are streamed. They are said because a namespace with a quota takes no pod that says none."""
BACKOFF_LIMIT = 1_000_000
"""A source that fails is tried for as long as it is wanted; the kubelet's back-off (10 s to 5 min) paces it."""
FINISHED_SECONDS = 300
"""How long a finished Job and its pod stay, to be looked at."""


def fetch_job(resource: ModelDeployment, source: Source, settings: Settings, *, expected: str | None = None) -> Child:
    """Return the fetch Job. Its name holds a hash of its template, because a Job's template may never change.

    With `expected`, a digest recorded earlier, it fails and tries again for as long as the source brings another file.

    When the source changes there is another Job; it finds a file that is there already in milliseconds. Kubernetes
    removes a finished Job and its pod after a while: what it proved is in the status by then
    (`headrace.kinds.modeldeployment.shared_source`).
    """
    pod_labels = labels(resource, COMPONENT_FETCH)
    arguments = ["--directory", settings.models_directory]
    if source.digest is not None:
        arguments += ["--digest", source.digest]
    if expected is not None:
        arguments += ["--expect", expected]
    if settings.allow_loopback_sources:
        arguments += ["--allow-loopback"]
    container: Manifest = {
        "name": "fetch",
        "image": settings.images[FETCH.key],
        "command": ["headrace-fetch"],
        "args": arguments,
        "env": [
            *environment_of(resource, settings),
            {"name": environment.SOURCE_URI, "value": source.uri},
            *({"name": name, "value": value} for name, value in settings.fetch_env),
        ],
        "resources": RESOURCES,
        "securityContext": RESTRICTED,
    }
    pod = pod_basics(resource, settings, container, writes=claim_of(source.uri) is None)
    if settings.ca_bundle_configmap is not None:
        _trust(settings.ca_bundle_configmap, pod, container)
    pod["restartPolicy"] = "OnFailure"
    name = MODEL_DEPLOYMENT.child_name(resource.name, COMPONENT_FETCH, short_hash(pod))
    manifest: Manifest = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(resource, name, pod_labels),
        "spec": {
            "backoffLimit": BACKOFF_LIMIT,
            "ttlSecondsAfterFinished": FINISHED_SECONDS,
            "template": {"metadata": {"labels": pod_labels}, "spec": pod},
        },
    }
    return Child(ChildKey.of(manifest), manifest)


def _trust(configmap: str, pod: Manifest, container: Manifest) -> None:
    """Mount the certificates, and name them to Python and to pip."""
    pod["volumes"] = [*pod.get("volumes", []), {"name": CA_VOLUME, "configMap": {"name": configmap}}]
    mount = {"name": CA_VOLUME, "mountPath": CA_DIRECTORY, "readOnly": True}
    container["volumeMounts"] = [*container.get("volumeMounts", []), mount]
    bundle = f"{CA_DIRECTORY}/{CA_KEY}"
    container["env"] += [{"name": name, "value": bundle} for name in CA_VARIABLES]
