"""What all children share: who owns them, what labels them, how a container of ours is locked down."""

from __future__ import annotations

from typing import Any

from headrace import environment
from headrace.api.validation import ModelDeployment
from headrace.api.vocabulary import API_VERSION, COMPONENT_LABEL, MANAGED_BY, MODEL_LABEL
from headrace.reconcile.world import Manifest, Settings

MODELS_VOLUME = "models"
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
