"""Access of each API key to models, and errors in the Secrets of API keys. Pure.

A digest is bound to its Secret's namespace (`headrace.routes.api_keys`), so Secrets of two namespaces never compete. Of
two Secrets with one digest in a namespace the oldest applies, and an error is reported on the other. They are ordered
by creation time and name, so the order does not change with a restart.

A digest in two namespaces is a mistake or an attack, and is reported on all of its Secrets: the digest does not contain
the namespace that the key names, so the older Secret may be the copy.
"""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from headrace.api import vocabulary as v
from headrace.reconcile.world import Manifest
from headrace.routes import KeyGrant
from headrace.routes.api_keys import entry_name, is_digest


@dataclass(frozen=True, slots=True, order=True)
class SecretKey:
    """Namespace and name of a Secret."""

    namespace: str
    name: str


_COPIED = (
    "another namespace has a Secret with the same SHA-256. A key is accepted only in the namespace that it names "
    "(hr_<namespace>_…). Delete the Secret that is not in that namespace"
)
"""Without the other namespace's name, which a tenant must not learn."""


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """The API keys of a world."""

    grants: Mapping[str, KeyGrant]
    """Access of each key, by its entry's name in the bucket."""
    faults: Mapping[SecretKey, str]
    """By Secret: why its key is not accepted, or may not be."""


def api_keys(secrets: Iterable[Manifest]) -> ApiKeys:
    """Return the access of the API keys among the Secrets, and the errors in their Secrets."""
    grants: dict[str, KeyGrant] = {}
    faults: dict[SecretKey, str] = {}
    holders: dict[str, list[SecretKey]] = defaultdict(list)
    for secret in sorted(filter(is_api_key, secrets), key=_seniority):
        key = SecretKey(secret["metadata"]["namespace"], secret["metadata"]["name"])
        data = _data(secret)
        digest = data.get("sha256", "").strip()
        if not is_digest(digest):
            faults[key] = "data.sha256 is not the SHA-256 of an API key in 64 lower-case hexadecimal digits"
            continue
        entry = entry_name(key.namespace, digest)
        if (older := grants.get(entry)) is not None:
            faults[key] = (
                f"the older Secret {older.name} has the same SHA-256, and its data.models applies. Delete this Secret, "
                "and create a new key"
            )
            continue
        holders[digest].append(key)
        models = tuple(name.strip() for name in data.get("models", "").split(",") if name.strip())
        grants[entry] = KeyGrant(namespace=key.namespace, name=key.name, models=models)
    for copies in holders.values():
        if len(copies) > 1:
            faults.update(dict.fromkeys(copies, _COPIED))
    return ApiKeys(grants, faults)


def is_api_key(secret: Manifest) -> bool:
    """Whether a Secret has the label of an API key."""
    return v.API_KEY_LABEL in (secret["metadata"].get("labels") or {})


def _seniority(secret: Manifest) -> tuple[str, str, str]:
    metadata = secret["metadata"]
    return metadata.get("creationTimestamp") or "", metadata["namespace"], metadata["name"]


def _data(secret: Manifest) -> dict[str, str]:
    """Return the Secret's data; empty if a value is not UTF-8 text."""
    try:
        return {name: base64.b64decode(value).decode() for name, value in (secret.get("data") or {}).items()}
    except (binascii.Error, UnicodeDecodeError):
        return {}
