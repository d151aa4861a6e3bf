"""Validation of manifests of any kind, with errors that name each field.

The checks equal the API server's (schema and CEL), so `headrace apply`, the local API and the operator's `Accepted`
condition report the same errors.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from headrace.api.kinds import Kind
from headrace.api.parts import Part, StatusPart
from headrace.api.rules import Rule
from headrace.errors import FieldError, InvalidResource

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Schema:
    """The schema of a kind's objects. The CRD is generated from it."""

    kind: Kind
    description: str
    spec: type[Part]
    status: type[Part] = StatusPart
    rules: tuple[Rule, ...] = ()

    def validate(self, manifest: Manifest, old: Manifest | None = None) -> None:
        """Check an object that replaces `old`. Raises InvalidResource with all errors found."""
        faults = list(self._schema_faults(manifest)) or list(self._rule_faults(manifest, old))
        if faults:
            metadata = manifest.get("metadata")
            name = metadata.get("name", "?") if isinstance(metadata, dict) else "?"
            raise InvalidResource(f"{self.kind.singular} {name} is invalid", causes=tuple(faults))

    def with_defaults(self, manifest: Manifest) -> Manifest:
        """Return a valid manifest with the defaults written into its spec, as an API server stores it."""
        defaulted = deepcopy(manifest)
        defaulted["metadata"].setdefault("namespace", "default")
        spec = self.spec.model_validate(defaulted["spec"])
        defaulted["spec"] = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        return defaulted

    def _schema_faults(self, manifest: Manifest) -> Iterator[FieldError]:
        if manifest.get("apiVersion") != self.kind.api_version:
            yield FieldError("apiVersion", f"must be {self.kind.api_version}")
        if manifest.get("kind") != self.kind.kind:
            yield FieldError("kind", f"must be {self.kind.kind}")
        metadata = manifest.get("metadata")
        if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
            yield FieldError("metadata.name", "is required")
        if not isinstance(manifest.get("spec"), dict):
            yield FieldError("spec", "is required")
            return
        for unknown in sorted(manifest.keys() - {"apiVersion", "kind", "metadata", "spec", "status"}):
            yield FieldError(unknown, "unknown field")
        try:
            self.spec.model_validate(manifest["spec"])
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                yield _fault_of(detail, self.spec)

    def _rule_faults(self, manifest: Manifest, old: Manifest | None) -> Iterator[FieldError]:
        """Yield an error for each broken rule; the manifest's schema is valid, `old` is the stored object if any."""
        new_values = self.with_defaults(manifest)
        old_values = self.with_defaults(old) if old is not None else None
        for rule in self.rules:
            before = next((value for _, value in _at(old_values, rule.path)), None) if old_values is not None else None
            if rule.transition and before is None:
                continue
            for path, value in _at(new_values, rule.path):
                if not rule.check(value, before):
                    message = f"{value[rule.field]} {rule.message}" if rule.quotes else rule.message
                    yield FieldError(f"{path}.{rule.field}" if path else rule.field, message)


def _at(manifest: Manifest, path: str) -> Iterator[tuple[str, Manifest]]:
    """Yield the value at a rule's path, or each item of the list there, with its own path; nothing if absent."""
    names = path.removesuffix("[]")
    value: Any = manifest
    for step in names.split(".") if names else ():
        value = value.get(step)
        if value is None:
            return
    if path.endswith("[]"):
        yield from ((f"{names}[{index}]", item) for index, item in enumerate(value))
    else:
        yield names, value


def _fault_of(detail: ErrorDetails, spec: type[Part]) -> FieldError:
    field = "spec"
    for step in detail["loc"]:
        field += f"[{step}]" if isinstance(step, int) else f".{step}"
    return FieldError(field, _message_of(detail, spec))


def _message_of(detail: ErrorDetails, spec: type[Part]) -> str:
    """Return a message that states the allowed values in YAML terms instead of pydantic's."""
    context = detail.get("ctx", {})
    match detail["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return _unknown_field(detail, spec)
        case "literal_error":
            return f"must be {context['expected']}, not {detail['input']!r}"
        case "string_pattern_mismatch":
            return f"{detail['input']!r} does not match {context['pattern']}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}, not {detail['input']}"
        case "less_than_equal":
            return f"must be at most {context['le']}, not {detail['input']}"
        case "int_type" | "string_type" | "bool_type" | "dict_type" | "list_type" | "model_type" as expected:
            wanted = _JSON_TYPES[expected.removesuffix("_type")]
            return f"must be {wanted}, not {type(detail['input']).__name__} {detail['input']!r:.40}"
        case _:
            return detail["msg"][0].lower() + detail["msg"][1:]


_JSON_TYPES = {
    "int": "a whole number",
    "string": "a string",
    "bool": "true or false",
    "dict": "a mapping",
    "list": "a list",
    "model": "a mapping",
}


def _unknown_field(detail: ErrorDetails, spec: type[Part]) -> str:
    part: type[BaseModel] = spec
    for step in detail["loc"][:-1]:
        part = _part_of(part, step)
    known = [field.alias or name for name, field in part.model_fields.items()]
    close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
    return "unknown field" + (f"; did you mean {close[0]}?" if close else f"; known fields: {', '.join(sorted(known))}")


def _part_of(part: type[BaseModel], step: int | str) -> type[BaseModel]:
    """Return the class of a field, with Optional and list unwrapped."""
    if isinstance(step, int):
        return part
    for field in part.model_fields.values():
        if field.alias == step:
            for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(candidate, type) and issubclass(candidate, Part):
                    return candidate
    return part
