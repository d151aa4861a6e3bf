"""The kinds of object that the local API and the command line know."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.api.vocabulary import API_VERSION


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind is named in manifests, in paths and on the command line."""

    api_version: str
    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    kind.kind: kind
    for kind in (
        Kind(API_VERSION, "ModelDeployment", "modeldeployments", "modeldeployment", ("mdep",)),
        Kind("apps/v1", "Deployment", "deployments", "deployment", ("deploy",)),
        Kind("batch/v1", "Job", "jobs", "job"),
        Kind("v1", "Pod", "pods", "pod", ("po",)),
        Kind("v1", "Service", "services", "service", ("svc",)),
        Kind("v1", "ConfigMap", "configmaps", "configmap", ("cm",)),
        Kind("v1", "Secret", "secrets", "secret"),
        Kind("v1", "Event", "events", "event", ("ev",)),
    )
}

USER_KINDS = frozenset({"ModelDeployment", "Secret", "ConfigMap"})
"""Kinds that a user makes; the others are made by headrace and only read."""
