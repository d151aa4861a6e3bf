"""What all children share: who owns them, what labels them, how a container of ours is locked down."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from headrace import environment
from headrace.api.validation import ModelDeployment
from headrace.api.vocabulary import API_VERSION, COMPONENT_LABEL, GROUP, MANAGED_BY, MODEL_LABEL
from headrace.reconcile.world import Child, ChildKey, Manifest, Settings

MODELS_VOLUME = "models"
HASH_LENGTH = 8
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""Passes Kubernetes' restricted pod security standard."""


def metadata(resource: ModelDeployment, name: str, labels: dict[str, str]) -> Manifest:
    """Return a child's metadata: owned, labelled, in the resource's namespace."""
    return {
        "name": name,
        "namespace": resource.namespace,
        "labels": labels,
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": "ModelDeployment",
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
    """Return the variables by which a child of ours knows who it is and whom to tell (`headrace.environment`)."""
    return [
        {"name": environment.NAMESPACE, "value": resource.namespace},
        {"name": environment.MODEL_DEPLOYMENT, "value": resource.name},
        _from_field(environment.POD_NAME, "metadata.name"),
        _from_field(environment.POD_IP, "status.podIP"),
        {"name": environment.NATS_URL, "value": settings.nats_url},
        _from_secret(environment.NATS_USER, "user"),
        _from_secret(environment.NATS_PASSWORD, "password"),
    ]


def short_hash(manifest: Manifest) -> str:
    """Return eight hexadecimal digits that name what is in the manifest."""
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:HASH_LENGTH]


def as_it_is(observed: Manifest) -> Child:
    """Return an observed child as it should stay: what was once applied, without what the world added to it.

    For what the present spec cannot make anew: the revisions before it, and everything while it is not accepted.
    """
    metadata = observed["metadata"]
    ours = {name: value for name, value in metadata.get("annotations", {}).items() if name.startswith(f"{GROUP}/")}
    manifest = {
        **{field: value for field, value in observed.items() if field != "status"},
        "metadata": {
            **{field: metadata[field] for field in ("name", "namespace", "labels", "ownerReferences")},
            **({"annotations": ours} if ours else {}),
        },
    }
    return Child(ChildKey.of(manifest), manifest)


def pod_basics(settings: Settings, container: Manifest, *, read_only_models: bool) -> Manifest:
    """Return a pod spec around one container, with the models mounted where there is a claim for them.

    No token and no service links: each would cost wake time (a token volume alone 290 ms on kind) and opens what a
    runtime does not need.
    """
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [container],
    }
    if settings.models_claim is not None:
        claim = {"claimName": settings.models_claim, "readOnly": read_only_models}
        spec["volumes"] = [{"name": MODELS_VOLUME, "persistentVolumeClaim": claim}]
        mount = {"name": MODELS_VOLUME, "mountPath": settings.models_directory, "readOnly": read_only_models}
        container["volumeMounts"] = [mount]
    return spec


def _from_field(name: str, path: str) -> Manifest:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _from_secret(name: str, key: str) -> Manifest:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": environment.NATS_SECRET, "key": key}}}
