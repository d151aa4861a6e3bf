"""The responses of the instance's API, in the shapes of Kubernetes: lists, failures, redacted Secrets. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from headrace.api.kinds import Kind
from headrace.errors import HeadraceError, InvalidResource
from headrace.kinds.registry import KINDS
from headrace.reconcile.world import Manifest

REDACTED = "<redacted>"
"""Replaces every value of a Secret: the API never returns it."""


class BadRequest(HeadraceError):
    """The request is malformed."""

    http_status = 400
    reason = "BadRequest"


class TooLarge(BadRequest):
    """The body is too large."""

    http_status = 413
    reason = "RequestEntityTooLarge"


class UnsupportedMediaType(BadRequest):
    """The body has a content type that the verb does not support."""

    http_status = 415
    reason = "UnsupportedMediaType"


class ReadOnly(HeadraceError):
    """Users cannot change objects of this kind: headrace makes them."""

    http_status = 405
    reason = "MethodNotAllowed"
    exit_code = 2


def kind_at(api_version: str, plural: str) -> Kind | None:
    """Return the kind that a path names."""
    return next((kind for kind in KINDS.values() if (kind.api_version, kind.plural) == (api_version, plural)), None)


def shown(manifest: Manifest) -> Manifest:
    """Return an object as the API returns it: the values of a Secret are redacted, their names are kept."""
    if manifest["kind"] != "Secret":
        return manifest
    redacted = {name: value for name, value in manifest.items() if name not in ("data", "stringData")}
    redacted["data"] = dict.fromkeys((*(manifest.get("data") or {}), *(manifest.get("stringData") or {})), REDACTED)
    return redacted


def list_of(kind: Kind, manifests: Iterable[Manifest]) -> Manifest:
    """Return a Kubernetes list."""
    return {
        "apiVersion": kind.api_version,
        "kind": f"{kind.kind}List",
        "metadata": {},
        "items": [shown(manifest) for manifest in manifests],
    }


def scale_of(manifest: Manifest) -> Manifest:
    """Return the `/scale` view of an object."""
    status = manifest.get("status", {})
    return {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {name: manifest["metadata"][name] for name in ("name", "namespace")},
        "spec": {"replicas": manifest["spec"].get("replicas", 1)},
        "status": {"replicas": status.get("replicas", 0), "selector": status.get("selector", "")},
    }


def failure(error: HeadraceError) -> Manifest:
    """Return a Kubernetes `Status` for an error, with the field of each violation in a resource."""
    details: dict[str, Any] = {}
    if isinstance(error, InvalidResource):
        details["causes"] = [
            {"reason": "FieldValueInvalid", "field": cause.field, "message": cause.message} for cause in error.causes
        ]
    return status("Failure", error.http_status, str(error), reason=error.reason, details=details)


def status(outcome: str, code: int, message: str, *, reason: str = "", details: Manifest | None = None) -> Manifest:
    """Return a Kubernetes `Status`."""
    return {
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": outcome,
        "message": message,
        "reason": reason,
        "details": details or {},
        "code": code,
    }
