"""Generation of the CRDs from the registry: structural schema, defaults, descriptions, rules, columns.

`headrace dev crds` writes `crds/` and the chart's copies. Kubernetes' structural schema differs from pydantic's JSON
Schema: it has no `$ref`, no `anyOf null` and no `title`, and every parent of a field with a default needs a default,
else the field's default is never applied.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from headrace.api.rules import Rule
from headrace.api.schema import Schema
from headrace.api.vocabulary import CATEGORY
from headrace.kinds.columns import PrinterColumn
from headrace.kinds.registry import RESOURCE_KINDS
from headrace.kinds.resource_kind import ResourceKind

JsonSchema = dict[str, Any]

CRD_DIRECTORY = Path(__file__).parents[3] / "crds"
"""The checkout's folder of CRDs."""
CHART_CRD_DIRECTORY = CRD_DIRECTORY.parent / "charts/headrace/files/crds"
"""The chart's copies, installed and upgraded by its templates: Helm's own `crds/` folder is never upgraded."""

_DROPPED = frozenset({"title", "additionalProperties", "propertyNames"})


def render() -> dict[str, str]:
    """Return the text of each CRD by file name."""
    header = "# Generated from headrace.kinds by `headrace dev crds`. Do not edit.\n"
    return {
        f"{resource.kind.plural}.{resource.kind.group}.yaml": header
        + yaml.safe_dump(crd_of(resource), sort_keys=False, width=120)
        for resource in RESOURCE_KINDS.values()
    }


def crd_of(resource: ResourceKind) -> dict[str, Any]:
    """Return the CustomResourceDefinition of a kind."""
    kind = resource.kind
    subresources: dict[str, Any] = {"status": {}}
    if resource.scalable:
        subresources["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{kind.group}"},
        "spec": {
            "group": kind.group,
            "scope": "Namespaced",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.singular,
                "shortNames": list(kind.short_names),
                "categories": [CATEGORY, "all"],
            },
            "versions": [
                {
                    "name": kind.version,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [_printed(column) for column in resource.printer_columns],
                    "subresources": subresources,
                    "schema": {"openAPIV3Schema": _root(resource.schema())},
                }
            ],
        },
    }


def _printed(column: PrinterColumn) -> dict[str, Any]:
    priority = {"priority": column.priority} if column.priority else {}
    return {"name": column.name, "type": column.type, "jsonPath": column.json_path, **priority}


def _root(schema: Schema) -> JsonSchema:
    """Return the schema of an object of the kind, with the validation rules."""
    root: JsonSchema = {
        "type": "object",
        "description": schema.description,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the schema of this object."},
            "kind": {"type": "string", "description": "Kind of this object."},
            "metadata": {"type": "object"},
            "spec": structural(schema.spec.model_json_schema(by_alias=True, mode="validation")),
            "status": structural(schema.status.model_json_schema(by_alias=True, mode="validation")),
        },
    }
    for rule in schema.rules:
        target = root
        for step in rule.path.removesuffix("[]").split(".") if rule.path else ():
            target = target["properties"][step]
        if rule.path.endswith("[]"):
            target = target["items"]
        target.setdefault("x-kubernetes-validations", []).append(_validation(rule))
    return root


def _validation(rule: Rule) -> dict[str, str]:
    entry = {"rule": rule.cel, "message": f"{rule.field} {rule.message}"}
    if rule.path and not rule.transition:
        entry["fieldPath"] = f".{rule.field}"  # metadata is not part of the schema: the server rejects a path into it
    if rule.quotes:
        entry["messageExpression"] = f"self.{rule.field} + ' {rule.message}'"
    return entry


def structural(schema: JsonSchema) -> JsonSchema:
    """Return pydantic's JSON schema as Kubernetes' structural schema."""
    definitions = schema.pop("$defs", {})
    return _convert(schema, definitions)


def _convert(node: JsonSchema, definitions: dict[str, JsonSchema]) -> JsonSchema:
    node = _inlined(node, definitions)
    result: JsonSchema = {key: value for key, value in node.items() if key not in _DROPPED}
    if "const" in result:
        result["enum"] = [result.pop("const")]
    if isinstance(node.get("additionalProperties"), dict):
        result["additionalProperties"] = _convert(node["additionalProperties"], definitions)
        result["maxProperties"] = node["maxProperties"]
    if "properties" in node:
        result["properties"] = {name: _convert(child, definitions) for name, child in node["properties"].items()}
        for name, child in node["properties"].items():
            if name not in node.get("required", ()) and "$ref" in child:
                result["properties"][name]["default"] = _defaults(result["properties"][name])
    if "items" in node:
        result["items"] = _convert(node["items"], definitions)
        result.setdefault("x-kubernetes-list-type", "atomic")
    if result.get("default", 0) is None:
        del result["default"]
    return result


def _defaults(schema: JsonSchema) -> JsonSchema:
    """Return the defaults of an object's fields.

    They must be complete: an API server validates a default with the rules before it applies nested defaults.
    """
    return {name: child["default"] for name, child in schema["properties"].items() if "default" in child}


def _inlined(node: JsonSchema, definitions: dict[str, JsonSchema]) -> JsonSchema:
    """Resolve a reference, or the `X or null` of an optional field; the field's own keywords take precedence."""
    own = {key: value for key, value in node.items() if key not in ("$ref", "allOf", "anyOf")}
    target: JsonSchema = {}
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
    for alternative in node.get("anyOf", ()):
        if alternative.get("type") != "null":
            target = _inlined(alternative, definitions)
    return {**target, **own}


def write() -> list[Path]:
    """Write the CRDs and the chart's copies into the checkout, and return their paths."""
    paths = []
    for directory in (CRD_DIRECTORY, CHART_CRD_DIRECTORY):
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in render().items():
            paths.append(directory / name)
            paths[-1].write_text(text, encoding="utf-8")
    return paths
