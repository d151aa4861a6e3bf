"""Job that fetches the file of a source into the model directory."""

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
from headrace.sources.location import SCHEMES_WITH_CREDENTIALS, claim_of, scheme_of

CA_VOLUME = "ca"
CA_DIRECTORY = "/etc/headrace/ca"
CA_KEY = "ca.crt"
CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")
RESOURCES = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
"""Resources of the fetch, which streams files. They are set because a quota can require them of every pod."""
BACKOFF_LIMIT = 1_000_000
"""A fetch is retried without a limit, at the rate of the kubelet's back-off (10 s to 5 min)."""
FINISHED_SECONDS = 300
"""Time for which a finished Job and its pod are kept for inspection."""


def fetch_job(resource: ModelDeployment, source: Source, settings: Settings, *, expected: str | None = None) -> Child:
    """Return the fetch Job. Its name contains a hash of its template, because a Job's template is immutable.

    With `expected`, a digest recorded earlier, it fails and is retried while the source has another file.

    A changed source creates another Job, which detects an existing file in milliseconds. Kubernetes deletes a finished
    Job and its pod after some time; by then the result is in the status
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
    if scheme_of(source.uri) in SCHEMES_WITH_CREDENTIALS:
        container["envFrom"] = [{"secretRef": {"name": environment.SOURCES_SECRET, "optional": True}}]
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
    """Mount the certificates, and set the variables of Python and pip."""
    pod["volumes"] = [*pod.get("volumes", []), {"name": CA_VOLUME, "configMap": {"name": configmap}}]
    mount = {"name": CA_VOLUME, "mountPath": CA_DIRECTORY, "readOnly": True}
    container["volumeMounts"] = [*container.get("volumeMounts", []), mount]
    bundle = f"{CA_DIRECTORY}/{CA_KEY}"
    container["env"] += [{"name": name, "value": bundle} for name in CA_VARIABLES]
