"""What the API keys of a world open, and which of their Secrets are at fault. Pure.

A digest is bound to its Secret's namespace (`headrace.routes.api_keys`), so Secrets of two namespaces never compete. Of
two in one namespace the oldest decides. Whoever comes later is told, also across namespaces: a copy of a digest is a
mistake or an attempt. The order is that of the Secrets' creation and names, so it is the same after every restart.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from headrace.api import vocabulary as v
from headrace.reconcile.world import Manifest
from headrace.routes import KeyGrant
from headrace.routes.api_keys import entry_name, is_digest

_HOW_TO_MEND = "Delete this Secret, and make a new key for it"


@dataclass(frozen=True, slots=True, order=True)
class SecretKey:
    """Names a Secret."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """The API keys of a world."""

    grants: Mapping[str, KeyGrant]
    """What each opens, by its entry's name in the bucket."""
    faults: Mapping[SecretKey, str]
    """Why a Secret opens nothing, or may not be what its owner takes it for."""


def api_keys(secrets: Iterable[Manifest]) -> ApiKeys:
    """Return what the Secrets among these open that are API keys."""
    grants: dict[str, KeyGrant] = {}
    faults: dict[SecretKey, str] = {}
    digests: set[str] = set()
    for secret in sorted(filter(is_api_key, secrets), key=_seniority):
        key = SecretKey(secret["metadata"]["namespace"], secret["metadata"]["name"])
        data = _data(secret)
        digest = data.get("sha256", "").strip()
        if not is_digest(digest):
            faults[key] = "data.sha256 is not the SHA-256 of an API key in 64 lower-case hexadecimal digits"
            continue
        entry = entry_name(key.namespace, digest)
        if (older := grants.get(entry)) is not None:
            faults[key] = f"the older Secret {older.name} holds the same key, and decides what it opens. {_HOW_TO_MEND}"
            continue
        if digest in digests:
            faults[key] = (
                "an older Secret of another namespace holds the same SHA-256. A key opens the namespace in its name "
                f"alone, so this copy opens nothing. {_HOW_TO_MEND}"
            )
        digests.add(digest)
        models = tuple(name.strip() for name in data.get("models", "").split(",") if name.strip())
        grants[entry] = KeyGrant(namespace=key.namespace, name=key.name, models=models)
    return ApiKeys(grants, faults)


def is_api_key(secret: Manifest) -> bool:
    """Whether a Secret is meant as an API key."""
    return v.API_KEY_LABEL in (secret["metadata"].get("labels") or {})


def _seniority(secret: Manifest) -> tuple[str, str, str]:
    metadata = secret["metadata"]
    return metadata.get("creationTimestamp") or "", metadata["namespace"], metadata["name"]


def _data(secret: Manifest) -> dict[str, str]:
    """Return the Secret's data; nothing when it is not text."""
    try:
        return {name: base64.b64decode(value).decode() for name, value in (secret.get("data") or {}).items()}
    except (binascii.Error, UnicodeDecodeError):
        return {}
