"""Fields of a resource kind: a walk over the schema of its CRD."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from generators.markdown import code, codes, table
from headrace.kinds.crds import crd_of
from headrace.kinds.registry import RESOURCE_KINDS

JsonSchema = dict[str, Any]
_BOUNDS = (
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " items"),
    ("minProperties", "maxProperties", " entries"),
)
"""Lower bound, upper bound, and what is counted."""


def spec(kind: str) -> str:
    """Return the fields of the spec, with the rules between them."""
    rules = RESOURCE_KINDS[kind].schema().rules
    listed = [f"- {code(f'{rule.path}.{rule.field}'.lstrip('.'))} {rule.message}.\n" for rule in rules]
    return f"{_fields(kind, 'spec')}\nRules, which the API server and `headrace apply` check:\n\n{''.join(listed)}"


def status(kind: str) -> str:
    """Return the fields of the status."""
    return _fields(kind, "status")


def _fields(kind: str, part: str) -> str:
    (version,) = crd_of(RESOURCE_KINDS[kind])["spec"]["versions"]
    root = version["schema"]["openAPIV3Schema"]["properties"][part]
    return table(("field", "type", "default", "meaning"), _rows(part, root))


def _rows(path: str, schema: JsonSchema) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row for each field below, with those of the items of lists."""
    for name, child in schema.get("properties", {}).items():
        field = f"{path}.{name}"
        yield code(field), _type(child), _default(name, child, schema), child.get("description", "")
        items = child.get("items", {})
        yield from _rows(f"{field}[]", items) if "properties" in items else _rows(field, child)


def _type(schema: JsonSchema) -> str:
    """Return the type of a field and its bounds."""
    if "enum" in schema:
        return codes(schema["enum"])
    if schema.get("type") == "array":
        name = f"list of {_type(schema['items'])}"
    elif isinstance(schema.get("additionalProperties"), dict):
        name = f"map of {_type(schema['additionalProperties'])}"
    elif schema.get("x-kubernetes-int-or-string"):
        name = "integer or string"
    else:
        name = "date-time" if schema.get("format") == "date-time" else str(schema["type"])
    bounds = [text for least, most, unit in _BOUNDS if (text := _range(schema.get(least), schema.get(most), unit))]
    if "pattern" in schema:
        bounds.append(f"pattern {code(schema['pattern'])}")
    return ", ".join([name, *bounds])


def _range(least: int | None, most: int | None, unit: str) -> str:
    if least is None:
        return f"at most {most}{unit}" if most is not None else ""
    return f"{least} to {most}{unit}" if most is not None else f"at least {least}{unit}"


def _default(name: str, schema: JsonSchema, parent: JsonSchema) -> str:
    """Return the default; *required* where the field must be given if its parent is."""
    if name in parent.get("required", ()):
        return "*required*"
    if "default" not in schema or "properties" in schema:
        return ""
    return code(json.dumps(schema["default"]))
