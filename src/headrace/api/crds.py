"""The CRDs, generated from the pydantic models: structural schema, defaults, descriptions, rules, columns.

`headrace dev crds` writes `crds/` and the chart's copies. Kubernetes wants what pydantic's JSON Schema is not: no
`$ref`, no `anyOf null`, no `title`; a default on every parent of a defaulted field, or the child's default is never
applied.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from headrace.api.model_deployment import Spec
from headrace.api.model_deployment_status import Status
from headrace.api.rules import RULES
from headrace.api.vocabulary import CATEGORY, GROUP, VERSION

Schema = dict[str, Any]

CRD_DIRECTORY = Path(__file__).parents[3] / "crds"
"""Where the checkout keeps them."""
CHART_CRD_DIRECTORY = CRD_DIRECTORY.parent / "charts/headrace/files/crds"
"""The chart's copies, which its templates install and upgrade: Helm itself would install them once, and never again."""

_DROPPED = frozenset({"title", "additionalProperties", "propertyNames"})


def render() -> dict[str, str]:
    """Return the text of each CRD by file name."""
    header = "# Generated from headrace.api by `headrace dev crds`. Do not edit.\n"
    text = yaml.safe_dump(model_deployment_crd(), sort_keys=False, width=120)
    return {f"modeldeployments.{GROUP}.yaml": header + text}


def model_deployment_crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition of ModelDeployment."""
    root: Schema = {
        "type": "object",
        "description": "One served model: where its file comes from, what runs it, and how it follows demand.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the schema of this object."},
            "kind": {"type": "string", "description": "Kind of this object."},
            "metadata": {"type": "object"},
            "spec": structural(Spec.model_json_schema(by_alias=True, mode="validation")),
            "status": structural(Status.model_json_schema(by_alias=True, mode="validation")),
        },
    }
    for rule in RULES:
        target = root
        for step in rule.path.removesuffix("[]").split(".") if rule.path else ():
            target = target["properties"][step]
        if rule.path.endswith("[]"):
            target = target["items"]
        field_path = "." + rule.field if rule.path else ""
        entry = {"rule": rule.cel, "message": f"{rule.field} {rule.message}", "fieldPath": field_path}
        if not rule.path or rule.transition:
            del entry["fieldPath"]  # metadata is not part of the schema, so the server refuses a path into it
        if rule.quotes:
            entry["messageExpression"] = f"self.{rule.field} + ' {rule.message}'"
        target.setdefault("x-kubernetes-validations", []).append(entry)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"modeldeployments.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": "ModelDeployment",
                "listKind": "ModelDeploymentList",
                "plural": "modeldeployments",
                "singular": "modeldeployment",
                "shortNames": ["mdep"],
                "categories": [CATEGORY, "all"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": _columns(),
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "schema": {"openAPIV3Schema": root},
                }
            ],
        },
    }


def structural(schema: Schema) -> Schema:
    """Return pydantic's JSON schema as Kubernetes' structural schema."""
    definitions = schema.pop("$defs", {})
    return _convert(schema, definitions)


def _convert(node: Schema, definitions: dict[str, Schema]) -> Schema:
    node = _inlined(node, definitions)
    result: Schema = {key: value for key, value in node.items() if key not in _DROPPED}
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


def _defaults(schema: Schema) -> Schema:
    """Return the defaults of an object's fields. An API server judges a default by the rules before it completes it."""
    return {name: child["default"] for name, child in schema["properties"].items() if "default" in child}


def _inlined(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """Replace a reference, or the `X or null` of an optional field, by what it means; the field's own words win."""
    own = {key: value for key, value in node.items() if key not in ("$ref", "allOf", "anyOf")}
    target: Schema = {}
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
    for alternative in node.get("anyOf", ()):
        if alternative.get("type") != "null":
            target = _inlined(alternative, definitions)
    return {**target, **own}


def _columns() -> list[dict[str, Any]]:
    ready = '.status.conditions[?(@.type=="Ready")]'
    return [
        {"name": "Ready", "type": "string", "jsonPath": ready + ".status"},
        {"name": "Reason", "type": "string", "jsonPath": ready + ".reason"},
        {"name": "Runtime", "type": "string", "jsonPath": ".spec.runtime.type"},
        {"name": "Replicas", "type": "integer", "jsonPath": ".status.replicas"},
        {"name": "URL", "type": "string", "jsonPath": ".status.url"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        {"name": "Model", "type": "string", "jsonPath": ".status.publicName", "priority": 1},
    ]


def write() -> list[Path]:
    """Write the CRDs into the checkout, the chart's copies too, and return their paths."""
    paths = []
    for directory in (CRD_DIRECTORY, CHART_CRD_DIRECTORY):
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in render().items():
            paths.append(directory / name)
            paths[-1].write_text(text, encoding="utf-8")
    return paths
