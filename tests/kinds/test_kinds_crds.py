"""The CRDs are those of the checkout, and what an API server wants of a schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.kinds.crds import CHART_CRD_DIRECTORY, CRD_DIRECTORY, crd_of, render
from headrace.kinds.modeldeployment import MODEL_DEPLOYMENT
from headrace.kinds.modeldeployment.resource import SCHEMA as MODELS
from headrace.kinds.modeldeployment.rules import RULES
from headrace.kinds.registry import RESOURCE_KINDS

SCHEMA = crd_of(MODEL_DEPLOYMENT)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def parts(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema below, with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from parts(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from parts(schema[key], f"{path}[]")


@pytest.mark.parametrize("directory", [CRD_DIRECTORY, CHART_CRD_DIRECTORY], ids=["crds", "chart"])
def test_crds_when_rendered_then_the_checkout_has_them(directory: Path) -> None:
    """Else run `make crds`: the registry, the models of a kind or its rules have changed."""
    assert {path.name: path.read_text() for path in directory.glob("*.yaml")} == render()


def test_fields_when_listed_then_each_has_a_description() -> None:
    bare = [p for p, s in parts(SCHEMA) if not s.get("description") and p not in ("", ".metadata") and "[]" not in p]
    assert bare == []


def test_strings_and_lists_when_listed_then_each_is_bounded() -> None:
    """Without bounds an API server refuses the rules for what they might cost."""
    for path, schema in parts(SCHEMA):
        if schema.get("type") == "string" and "enum" not in schema and path not in (".apiVersion", ".kind"):
            assert "maxLength" in schema or schema.get("format") == "date-time", path
        if schema.get("type") == "array":
            assert "maxItems" in schema, path
            assert "x-kubernetes-list-type" in schema, path
        if "additionalProperties" in schema:
            assert "maxProperties" in schema, path


def test_schema_when_searched_then_it_is_structural() -> None:
    text = yaml.safe_dump(SCHEMA)
    assert not [word for word in ("$ref", "anyOf", "title:", "type: 'null'") if word in text]


def test_rules_when_counted_then_all_are_in_the_schema() -> None:
    found = [rule["rule"] for _, schema in parts(SCHEMA) for rule in schema.get("x-kubernetes-validations", [])]
    assert sorted(found) == sorted(rule.cel for rule in RULES)


def test_defaults_when_written_by_the_server_then_equal_pydantic() -> None:
    """The server's defaulting of a minimal spec gives what ours gives, empty lists and maps aside."""
    spec = {"model": {"source": {"uri": "file:///x"}}, "scaling": {}}
    manifest = {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "x"},
        "spec": spec,
    }
    served = defaulted(SCHEMA["properties"]["spec"], spec)
    assert pruned(served) == pruned(MODELS.with_defaults(manifest)["spec"])


def defaulted(schema: dict[str, Any], value: Any) -> Any:
    """Do as an API server does: write defaults into objects that are there."""
    if not isinstance(value, dict):
        return value
    result = dict(value)
    for name, child in schema.get("properties", {}).items():
        if name not in result and "default" in child:
            result[name] = child["default"]
        if name in result:
            result[name] = defaulted(child, result[name])
    return result


def pruned(value: Any) -> Any:
    """Leave out empty lists and maps: absent and empty mean the same."""
    if isinstance(value, dict):
        return {k: p for k, v in value.items() if (p := pruned(v)) not in ({}, [])}
    return value


@pytest.mark.parametrize("kind", RESOURCE_KINDS)
def test_columns_when_compared_then_kubectl_has_those_of_get(kind: str) -> None:
    """kubectl adds the name itself, and only `headrace get -o wide` shows messages."""
    resource = RESOURCE_KINDS[kind]
    printed = [(column.name.upper(), column.priority == 1) for column in resource.printer_columns]
    shown = [(column.title, column.wide) for column in resource.columns if column.title not in ("NAME", "MESSAGE")]
    assert printed == shown


def test_models_when_listed_by_kubectl_then_have_public_names() -> None:
    spec = crd_of(MODEL_DEPLOYMENT)["spec"]
    assert "all" in spec["names"]["categories"]
    columns = {column["name"]: column["jsonPath"] for column in spec["versions"][0]["additionalPrinterColumns"]}
    assert columns["Model"] == ".status.publicName"
