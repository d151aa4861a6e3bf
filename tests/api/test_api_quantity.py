"""Quantities: what Kubernetes takes is taken, by pydantic as by the CRD, and reaches the pods with its value."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kubernetes.utils import quantity as kubernetes
from pydantic import ValidationError

from headrace.api.quantity import PATTERN
from headrace.errors import InvalidResource
from headrace.kinds.crds import crd_of
from headrace.kinds.modeldeployment import MODEL_DEPLOYMENT
from headrace.kinds.modeldeployment.manifests.deployment import pod_spec
from headrace.kinds.modeldeployment.resource import SCHEMA as MODELS
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.kinds.modeldeployment.template import Resources
from headrace.reconcile.world import Settings

SETTINGS = Settings(gateway_url="http://g", nats_url="nats://n", models_directory="/models")
SPEC = crd_of(MODEL_DEPLOYMENT)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
SCHEMA = SPEC["properties"]["template"]["properties"]["resources"]["properties"]["limits"]["additionalProperties"]
SUFFIXES = (
    "n",
    "u",
    "m",
    "",
    "k",
    "M",
    "G",
    "T",
    "P",
    "E",
    "Ki",
    "Mi",
    "Gi",
    "Ti",
    "Pi",
    "Ei",
    "e3",
    "E3",
    "e-3",
    "E+3",
    "e-12",
    "e18",
)
GOOD = [
    *(f"{number}{suffix}" for suffix in SUFFIXES for number in ("0", "2", "1.5", "+3", "7.", ".5")),
    *(0, 1, 2, 8_589_934_592, 10**18),
]
BAD: list[object] = [
    *("", "1K", "1ki", "1mi", "1 Gi", "-1", "1e", "1e1.5", "e3", "m", ".", "1GB", "1g", "1m\n", "²", "1_000", "NaN"),
    *("1e100", "1E-100", "1e4294967299", ".0E1100000000000000000"),
    *("1" * 33, -1, 10**18 + 1, 0.5, 1.0, True, None, [], {}),
]
ANY = st.one_of(
    st.from_regex(PATTERN),
    st.integers(),
    st.booleans(),
    st.floats(),
    st.none(),
    st.text(max_size=8),
    st.sampled_from(BAD),
)


value_of: Callable[[object], Decimal] = kubernetes.parse_quantity
"""As Kubernetes' own client reads it."""


def resource(amount: object) -> dict[str, Any]:
    spec = {"model": {"source": {"uri": "file:///x"}}, "template": {"resources": {"limits": {"cpu": amount}}}}
    metadata = {"name": "x", "namespace": "default", "uid": "u", "generation": 1}
    return {"apiVersion": "headrace.dev/v1alpha1", "kind": "ModelDeployment", "metadata": metadata, "spec": spec}


def rendered(amount: object) -> Any:
    """Return the amount as a pod of the resource has it."""
    pod = pod_spec(ModelDeployment.parse(resource(amount)), "r", SETTINGS)
    return pod["containers"][0]["resources"]["limits"]["cpu"]


def server_takes(value: object) -> bool:
    """Judge as an API server does by the CRD's schema of an integer or a string."""
    assert SCHEMA["x-kubernetes-int-or-string"]
    assert "type" not in SCHEMA
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return bool(SCHEMA["minimum"] <= value <= SCHEMA["maximum"])
    if isinstance(value, str):
        return len(value) <= SCHEMA["maxLength"] and re.fullmatch(SCHEMA["pattern"], value) is not None
    return False


@pytest.mark.parametrize("amount", GOOD, ids=repr)
def test_quantity_when_kubernetes_accepts_it_then_pod_has_it(amount: object) -> None:
    assert value_of(rendered(amount)) == value_of(amount)


@pytest.mark.parametrize("amount", BAD, ids=repr)
def test_quantity_when_kubernetes_refuses_it_then_fault_names_it(amount: object) -> None:
    with pytest.raises(InvalidResource) as caught:
        ModelDeployment.parse(resource(amount))
    (fault,) = caught.value.causes
    assert fault.field == "spec.template.resources.limits.cpu"
    assert fault.message.startswith("must be ")


@given(value=ANY)
@example(value=".0E1100000000000000000")
def test_quantity_when_any_value_then_server_and_pydantic_agree(value: object) -> None:
    """The CRD's schema takes a value exactly if pydantic does, and what both take Kubernetes' own client can read."""
    try:
        taken = Resources.model_validate({"limits": {"cpu": value}}).limits["cpu"]
    except ValidationError:
        assert not server_takes(value)
    else:
        assert server_takes(value)
        assert value_of(taken) == value_of(value) >= Decimal(0)


def test_quantity_when_number_or_text_then_the_spec_is_the_same() -> None:
    """So it is the same revision: taking away quotes restarts nothing."""
    assert MODELS.with_defaults(resource(2)) == MODELS.with_defaults(resource("2"))


def test_quantity_when_an_unquoted_decimal_then_fault_shows_form() -> None:
    with pytest.raises(InvalidResource) as caught:
        ModelDeployment.parse(resource(0.5))
    assert caught.value.causes[0].message == 'must be in quotes, because it is a decimal fraction: "0.5"'
