"""The operations of users on the objects of an instance: read all of them, and change those that users may change.

The cluster validates a resource by the schema of its kind. The checks that an API server makes of every object, and of
Secrets and ConfigMaps, are made here before.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from headrace.api.kinds import Kind
from headrace.api.vocabulary import API_KEY_LABEL
from headrace.broker.config import LABEL
from headrace.environment import NATS_SECRET
from headrace.errors import FieldError, InvalidResource, NotFound
from headrace.kinds.registry import KINDS, RESOURCE_KINDS, user_kinds
from headrace.local.api_shapes import ReadOnly
from headrace.local.cluster import LocalCluster
from headrace.local.index import Change
from headrace.reconcile.world import Manifest, ObjectKey
from headrace.routes.api_keys import is_digest

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
MAX_NAME_CHARACTERS = 253
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_OWNER_FIELDS = ("apiVersion", "kind", "name", "uid")
_STRING_MAPS = ("labels", "annotations")


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of applying an object."""

    manifest: Manifest
    created: bool
    changed: bool


class Objects:
    """The objects of one instance. `admit` is called before an object is added to a namespace."""

    def __init__(self, cluster: LocalCluster, admit: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._admit = admit

    def get(self, kind: Kind, namespace: str, name: str) -> Manifest:
        """Return an object. Raises NotFound."""
        found = self._cluster.index.get(ObjectKey(kind.kind, namespace, name))
        if found is None:
            raise NotFound(f"{kind.singular} {name!r} does not exist in namespace {namespace!r}")
        return found

    def list(self, kind: Kind, namespace: str | None) -> list[Manifest]:
        """Return the objects of a namespace, or (None) of all."""
        return self._cluster.index.list(kind.kind, namespace)

    def namespaces(self) -> set[str]:
        """Return the namespaces that have an object."""
        return {obj["metadata"]["namespace"] for kind in user_kinds() for obj in self._cluster.index.list(kind)}

    def watch(self, kind: Kind, namespace: str | None) -> AsyncIterator[Change]:
        """Yield the present objects (as ADDED), then every change."""
        return self._cluster.index.watch(kind.kind, namespace)

    def logs(
        self, namespace: str, pod: str, *, follow: bool, tail_lines: int | None, previous: bool
    ) -> AsyncIterator[bytes]:
        """Yield the log of a pod. Raises NotFound if the pod does not exist."""
        return self._cluster.logs(namespace, pod, follow=follow, tail_lines=tail_lines, previous=previous)

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Applied:
        """Apply an object of the user. Raises InvalidResource, with every violation, or ReadOnly."""
        kind = _user_kind(manifest.get("kind"))
        faults = [*_metadata_faults(manifest), *_CHECKS.get(kind.kind, _no_faults)(manifest)]
        if faults:
            resource = RESOURCE_KINDS.get(kind.kind)
            own = resource.schema().faults(manifest) if resource is not None else []
            others = [fault for fault in faults if fault.field not in {each.field for each in own}]
            raise InvalidResource(f"{kind.singular} is invalid", causes=(*own, *others))
        wanted = _with_string_data(manifest)
        if not dry_run:
            self._admit(manifest["metadata"]["namespace"])
        now, before = self._cluster.apply_object(wanted, dry_run=dry_run)
        return Applied(now, created=before is None, changed=now != before)

    def scale(self, kind: Kind, namespace: str, name: str, replicas: int) -> Manifest:
        """Set spec.replicas of a resource; return the changed resource."""
        resource = RESOURCE_KINDS.get(kind.kind)
        if resource is None:
            raise ReadOnly(f"{kind.plural} are scaled by headrace", hint="Scale the resource that owns them")
        if not resource.scalable:
            raise ReadOnly(f"{kind.plural} cannot be scaled: they have no spec.replicas")
        found = self.get(kind, namespace, name)
        return self.apply({**found, "spec": {**found["spec"], "replicas": replicas}}).manifest

    def delete(self, kind: Kind, namespace: str, name: str) -> None:
        """Delete an object of the user and its children. Raises NotFound or ReadOnly."""
        _user_kind(kind.kind)
        found = self.get(kind, namespace, name)
        if fault := next(_reserved_faults(found), None):
            raise ReadOnly(f"{kind.singular} {name}: {fault.message}")
        self._cluster.delete_object(ObjectKey(kind.kind, namespace, name))


def _user_kind(word: object) -> Kind:
    kind = KINDS.get(word) if isinstance(word, str) else None
    if kind is None or kind.kind not in user_kinds():
        what = kind.plural if kind is not None else f"objects of kind {word!r}"
        known = ", ".join(sorted(user_kinds()))
        raise ReadOnly(f"{what} cannot be changed by users in local mode", hint=f"Apply one of {known}")
    return kind


def _metadata_faults(manifest: Manifest) -> Iterator[FieldError]:
    metadata = manifest.get("metadata")
    if not isinstance(metadata, dict):
        yield FieldError("metadata", "is required")
        return
    name, namespace = metadata.get("name"), metadata.get("namespace")
    if not isinstance(namespace, str) or not LABEL.fullmatch(namespace):
        yield FieldError("metadata.namespace", "must be a DNS label: lower-case letters, digits and dashes")
    if not isinstance(name, str) or len(name) > MAX_NAME_CHARACTERS or not SUBDOMAIN.fullmatch(name):
        yield FieldError("metadata.name", "must be a DNS name: lower-case letters, digits, dashes and dots")
    for field in _STRING_MAPS:
        if not _is_string_map(metadata.get(field, {})):
            yield FieldError(f"metadata.{field}", "must be a mapping of strings to strings")
    yield from _owner_faults(metadata.get("ownerReferences") or [])
    yield from _reserved_faults(manifest)


def _owner_faults(references: object) -> Iterator[FieldError]:
    path = "metadata.ownerReferences"
    if not isinstance(references, list) or not all(isinstance(each, dict) for each in references):
        yield FieldError(path, "must be a list of objects")
        return
    for index, reference in enumerate(references):
        for field in _OWNER_FIELDS:
            if not isinstance(reference.get(field), str) or not reference[field]:
                yield FieldError(f"{path}[{index}].{field}", "is required, and must be a string")
        for field in ("controller", "blockOwnerDeletion"):
            if not isinstance(reference.get(field, False), bool):
                yield FieldError(f"{path}[{index}].{field}", "must be true or false")
    if sum(reference.get("controller") is True for reference in references) > 1:
        yield FieldError(path, "may have one reference with controller: true")


def _reserved_faults(manifest: Manifest) -> Iterator[FieldError]:
    if manifest["kind"] == "Secret" and manifest["metadata"].get("name") == NATS_SECRET:
        yield FieldError("metadata.name", "this Secret is managed by headrace")


def _secret_faults(manifest: Manifest) -> Iterator[FieldError]:
    yield from _unknown_fields(manifest, "data", "stringData", "type", "immutable")
    faults = [*_data_faults(manifest, "data"), *_data_faults(manifest, "stringData")]
    if faults:
        yield from faults
        return
    texts = {key: _decoded(value) for key, value in (manifest.get("data") or {}).items()}
    for key, text in texts.items():
        if text is None:
            yield FieldError(f"data.{key}", "must be text in UTF-8, encoded in base64")
    metadata = manifest.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, dict) else None
    if isinstance(labels, dict) and API_KEY_LABEL in labels:
        digest = (manifest.get("stringData") or {}).get("sha256", texts.get("sha256"))
        if digest is None or not is_digest(digest.strip()):
            yield FieldError("data.sha256", "must be the SHA-256 of the API key, in 64 hexadecimal digits")


def _config_map_faults(manifest: Manifest) -> Iterator[FieldError]:
    yield from _unknown_fields(manifest, "data", "immutable")
    yield from _data_faults(manifest, "data")


def _no_faults(manifest: Manifest) -> Iterator[FieldError]:
    """A resource is validated by the cluster, against the present one."""
    del manifest
    return iter(())


_CHECKS: dict[str, Callable[[Manifest], Iterator[FieldError]]] = {
    "Secret": _secret_faults,
    "ConfigMap": _config_map_faults,
}


def _data_faults(manifest: Manifest, field: str) -> Iterator[FieldError]:
    data = manifest.get(field) or {}
    if not _is_string_map(data):
        yield FieldError(field, "must be a mapping of strings to strings")
        return
    for key in data:
        if not _DATA_KEY.fullmatch(key):
            yield FieldError(field, f"{key!r:.60} is not a key: letters, digits, dashes, dots and underscores")


def _unknown_fields(manifest: Manifest, *known: str) -> Iterator[FieldError]:
    for field in sorted(manifest.keys() - {"apiVersion", "kind", "metadata", *known}):
        yield FieldError(field, "unknown field")


def _is_string_map(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(part, str) for item in value.items() for part in item)


def _decoded(value: str) -> str | None:
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def _with_string_data(manifest: Manifest) -> Manifest:
    """Return a Secret as it is stored: `stringData` is encoded into `data`."""
    if "stringData" not in manifest:
        return manifest
    text = {key: base64.b64encode(value.encode()).decode() for key, value in (manifest["stringData"] or {}).items()}
    stored = {field: value for field, value in manifest.items() if field != "stringData"}
    return {**stored, "data": {**(manifest.get("data") or {}), **text}}
