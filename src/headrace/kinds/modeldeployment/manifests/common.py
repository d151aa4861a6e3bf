"""Parts of several manifests: metadata, labels, environment variables, pod spec and security context."""

from __future__ import annotations

import hashlib
import json

from headrace import environment
from headrace.api.vocabulary import (
    API_VERSION,
    COMPONENT_LABEL,
    COMPONENT_RUNTIME,
    GROUP,
    MANAGED_BY,
    MODEL_LABEL,
)
from headrace.http.bodies import MAX_BODY_BYTES
from headrace.kinds.modeldeployment import MODEL_DEPLOYMENT
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.kinds.modeldeployment.spec import Source
from headrace.reconcile.world import ApplyPhase, Child, ChildKey, Manifest, Settings
from headrace.sources.location import claim_of, location

MODELS_VOLUME = "models"
HASH_LENGTH = 8
UNPRIVILEGED_ID = 65532
"""User and group of headrace's images; the group owns the files that a fetch writes into the claim."""
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""Security context that satisfies Kubernetes' restricted pod security standard."""
_APPLIED_FIELDS = ("spec", "automountServiceAccountToken")
_APPLIED_SPEC = {
    "Deployment": ("replicas", "selector", "strategy", "template"),
    "Job": ("backoffLimit", "template", "ttlSecondsAfterFinished"),
    "Service": ("clusterIP", "selector", "ports"),
}
"""Applied fields of specs to which the API server adds others. Applying an added field (such as a Job's selector) would
make headrace its owner; the next apply without it would remove it, which the server refuses."""


def metadata(resource: ModelDeployment, name: str, labels: dict[str, str]) -> Manifest:
    """Return a child's metadata: name, namespace, labels and ownerReference."""
    return {
        "name": name,
        "namespace": resource.namespace,
        "labels": labels,
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": MODEL_DEPLOYMENT.kind.kind,
                "name": resource.name,
                "uid": resource.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def labels(resource: ModelDeployment, component: str) -> dict[str, str]:
    """Return the labels of a component's objects and pods."""
    return {MANAGED_BY: "headrace", MODEL_LABEL: resource.name, COMPONENT_LABEL: component}


def environment_of(resource: ModelDeployment, settings: Settings) -> list[Manifest]:
    """Return the variables with the identity of a pod and its login to NATS (`headrace.environment`)."""
    return [
        {"name": environment.NAMESPACE, "value": resource.namespace},
        {"name": environment.MODEL_DEPLOYMENT, "value": resource.name},
        from_field(environment.POD_NAME, "metadata.name"),
        from_field(environment.POD_IP, "status.podIP"),
        {"name": environment.NATS_URL, "value": settings.nats_url},
        _from_secret(environment.NATS_USER, "user"),
        _from_secret(environment.NATS_PASSWORD, "password"),
    ]


def runtime_environment(resource: ModelDeployment, revision: str, settings: Settings) -> list[Manifest]:
    """Return the variables of a self-registering runtime.

    The default body limit is omitted, because an upgrade would otherwise create a revision of every model.
    """
    limit = settings.max_body_bytes
    return [
        *environment_of(resource, settings),
        {"name": environment.REVISION, "value": revision},
        {"name": environment.GRACE_SECONDS, "value": str(resource.spec.rollout.drain_timeout_seconds)},
        *([] if limit == MAX_BODY_BYTES else [{"name": environment.MAX_BODY_BYTES, "value": str(limit)}]),
    ]


def short_hash(manifest: Manifest) -> str:
    """Return eight hexadecimal digits of the hash of a manifest."""
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:HASH_LENGTH]


def unchanged_child(observed: Manifest, phase: ApplyPhase = ApplyPhase.OTHER) -> Child:
    """Return an observed child unchanged: the applied fields, without those that the world added.

    It is for children that cannot be rendered from the present spec: those of other revisions, and all children while
    the spec is not accepted.
    """
    metadata = observed["metadata"]
    own = {name: value for name, value in metadata.get("annotations", {}).items() if name.startswith(f"{GROUP}/")}
    manifest = {
        **{field: observed[field] for field in ("apiVersion", "kind", *_APPLIED_FIELDS) if field in observed},
        "metadata": {
            **{field: metadata[field] for field in ("name", "namespace", "labels", "ownerReferences")},
            **({"annotations": own} if own else {}),
        },
    }
    if (fields := _APPLIED_SPEC.get(manifest["kind"])) is not None:
        manifest["spec"] = {field: manifest["spec"][field] for field in fields if field in manifest["spec"]}
    if "template" in manifest.get("spec", {}):
        manifest["spec"]["template"] = _unchanged_template(manifest["spec"]["template"])
    return Child(ChildKey.of(manifest), manifest, phase)


def _unchanged_template(observed: Manifest) -> Manifest:
    """Return a pod template without the labels that the Job controller added."""
    labels = observed["metadata"]["labels"].items()
    own = {name: value for name, value in labels if name == MANAGED_BY or name.startswith(f"{GROUP}/")}
    return {"metadata": {"labels": own}, "spec": observed["spec"]}


def component_name(resource: ModelDeployment, component: str) -> str:
    """Return the name of a component's prerequisites. It has a suffix, because a namespace has a `default` account."""
    return MODEL_DEPLOYMENT.child_name(resource.name, component)


def pod_basics(resource: ModelDeployment, settings: Settings, container: Manifest, *, writes: bool) -> Manifest:
    """Return a pod spec with one container, and with the models mounted from their claim, if there is one.

    It has no token, no service links and no other volume: a runtime needs none, and the kubelet waits for each volume
    (290 ms for a token on kind). False and empty fields are omitted, as the API server omits them, so that observed and
    desired specs compare equal.
    """
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [container],
    }
    claim = _claim(resource, settings)
    if claim is not None:
        read_only = {} if writes else {"readOnly": True}
        spec["volumes"] = [{"name": MODELS_VOLUME, "persistentVolumeClaim": {"claimName": claim, **read_only}}]
        container["volumeMounts"] = [
            {"name": MODELS_VOLUME, "mountPath": settings.models_directory, **read_only},
        ]
    if settings.platform_namespace is not None:
        spec["serviceAccountName"] = component_name(resource, COMPONENT_RUNTIME)
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if settings.pod_security:
        spec["securityContext"] = {
            "runAsUser": UNPRIVILEGED_ID,
            "runAsGroup": UNPRIVILEGED_ID,
            "fsGroup": UNPRIVILEGED_ID,
            "fsGroupChangePolicy": "OnRootMismatch",  # Always would check every file of the claim at each start
        }
    return spec


def model_path(source: Source, settings: Settings) -> str:
    """Return the path of the model's file in a runtime's container."""
    return f"{settings.models_directory}/{location(source.uri, source.digest)}"


def from_field(name: str, path: str) -> Manifest:
    """Return a variable with the value of a field of its pod."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _claim(resource: ModelDeployment, settings: Settings) -> str | None:
    source = resource.spec.model.source
    return (claim_of(source.uri) or settings.models_claim) if source is not None else None


def _from_secret(name: str, key: str) -> Manifest:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": environment.NATS_SECRET, "key": key}}}


def deployment_name(resource: ModelDeployment, revision: str) -> str:
    """Return the name of a revision's Deployment."""
    return MODEL_DEPLOYMENT.child_name(resource.name, revision)
