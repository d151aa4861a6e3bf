"""The values: each is explained and checked, and a mistyped one is refused in words."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from chart.chart_rendering import CHART, VARIANTS, Refused, helm, render

VALUES = (CHART / "values.yaml").read_text()
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


@pytest.mark.parametrize("variant", VARIANTS)
def test_chart_when_linted_then_helm_finds_nothing(variant: str) -> None:
    values = json.dumps(VARIANTS[variant])
    api = ["--set", "gateway.httpRoute.enabled=false"]  # lint knows no API but Kubernetes' own
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), *api, "-f", "-", text=values)


def test_version_when_released_then_chart_and_programs_agree() -> None:
    pyproject = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text())
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == pyproject["project"]["version"]


def test_values_when_read_then_every_key_has_a_comment() -> None:
    lines = VALUES.splitlines()
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if re.match(r"\s*[A-Za-z]+:", line) and "#" not in line and not before.lstrip().startswith("#")
    ]
    assert bare == []


def objects(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema of an object, definitions included, with its path."""
    if "$ref" not in schema and schema.get("type") == "object":
        yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from objects(child, f"{path}.{name}")
    if isinstance(items := schema.get("items"), dict):
        yield from objects(items, f"{path}[]")


def test_schema_when_it_names_keys_then_it_refuses_all_others() -> None:
    found = [*objects(SCHEMA), *(one for name, part in SCHEMA["definitions"].items() for one in objects(part, name))]
    assert [
        path for path, schema in found if "properties" in schema and schema.get("additionalProperties") is not False
    ] == []


def test_schema_when_it_allows_a_key_then_the_values_explain_it() -> None:
    def unexplained(schema: dict[str, Any], values: Any, path: str) -> Iterator[str]:
        for name, child in schema.get("properties", {}).items():
            where = f"{path}.{name}"
            if where != ".global" and values != {}:  # an empty mapping is explained as a whole
                if name in values:
                    yield from unexplained(child, values[name], where)
                else:
                    yield where

    assert list(unexplained(SCHEMA, yaml.safe_load(VALUES), "")) == []


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("gatway.replicas=3", "gatway"),
        ("gateway.replica=3", "replica"),
        ("gateway.replicas=0", "gateway.replicas"),
        ("gateway.replicas=many", "gateway.replicas"),
        ("gateway.service.type=Nodeport", "gateway.service.type"),
        ("gateway.publicUrl=llm.example.org", "gateway.publicUrl"),
        ("gateway.ingress.hosts={https://llm.example.org}", "gateway.ingress.hosts"),
        ("gateway.resources.request.cpu=1", "request"),
        ("gateway.resources.limits.cpu=2 cores", "gateway.resources.limits.cpu"),
        ("images.operator.digest=latest", "images.operator.digest"),
        ("images.registry=https://registry.example.org", "images.registry"),
        ("models.accessMode=ReadWriteSometimes", "models.accessMode"),
        ("models.size=20GB", "models.size"),
        ("watchNamespaces={Team_A}", "watchNamespaces"),
        ("fetch.proxy.https=proxy:3128", "fetch.proxy.https"),
        ("gateway.ingress.enabled=true", "gateway.ingress.hosts"),
        ("gateway.httpRoute.enabled=true", "gateway.httpRoute.parentRefs"),
        ("nats.replicas=3", "replicas"),
        ("cleanup.keepModels=yes-please", "cleanup.keepModels"),
    ],
)
def test_value_when_invalid_then_helm_refuses_and_names_it(setting: str, said: str) -> None:
    with pytest.raises(Refused) as refused:
        render({}, "--set", setting)
    # Helm 3.17 and later write a path with slashes.
    assert said in str(refused.value).replace("/", ".")


def test_limits_when_contradicting_each_other_then_helm_refuses() -> None:
    with pytest.raises(Refused, match="minReplicas is more than maxReplicas"):
        render({"gateway": {"autoscaling": {"enabled": True, "minReplicas": 7}}})


def test_kubernetes_when_it_is_too_old_then_helm_refuses() -> None:
    with pytest.raises(Refused, match=r"requires kubeVersion: >=1\.30"):
        render({}, "--kube-version", "1.29.0")


def test_gateway_api_when_not_in_the_cluster_then_helm_explains() -> None:
    values = json.dumps({"gateway": {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]}}})
    with pytest.raises(Refused, match="install the Gateway API's CRDs first"):
        helm("template", str(CHART), "-f", "-", text=values)


def test_release_when_it_has_another_name_then_every_name_has_it() -> None:
    names = {one["metadata"]["name"] for one in render(release="inference").objects}
    assert [name for name in names if not name.startswith("inference-headrace")] == ["modeldeployments.headrace.dev"]
    long = render({"fullnameOverride": "a" * 40}).objects
    assert max(len(one["metadata"]["name"]) for one in long) <= 63
