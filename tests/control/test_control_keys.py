"""Which models API keys give access to, and which of their Secrets are faulty."""

from __future__ import annotations

import base64
import itertools
from typing import Any

import pytest

from headrace.api import vocabulary as v
from headrace.control.keys import SecretKey, api_keys
from headrace.reconcile.world import Manifest

A, B = "a" * 64, "b" * 64


def secret(name: str = "app", namespace: str = "n", age: int = 0, **data: str) -> Manifest:
    metadata = {
        "name": name,
        "namespace": namespace,
        "labels": {v.API_KEY_LABEL: "true"},
        "creationTimestamp": f"2026-01-01T00:00:{age:02}Z",
    }
    return {
        "metadata": metadata,
        "data": {field: base64.b64encode(value.encode()).decode() for field, value in data.items()},
    }


def test_key_when_it_names_models_then_it_gives_access_to_these() -> None:
    ((entry, grant),) = api_keys([secret(sha256=A, models="x, y,")]).grants.items()
    assert entry == f"n.{A}"
    assert (grant.namespace, grant.name, grant.models) == ("n", "app", ("x", "y"))


@pytest.mark.parametrize(
    "broken",
    [{"data": {}}, {"data": {"sha256": "%"}}, {"data": {"sha256": "/w=="}}, {"data": None}, secret(sha256="A" * 64)],
)
def test_key_when_its_secret_is_broken_then_refused_and_reported(broken: dict[str, Any]) -> None:
    keys = api_keys([{**secret(), **broken}])
    assert keys.grants == {}
    assert "data.sha256" in keys.faults[SecretKey("n", "app")]


def test_secret_when_it_has_no_label_then_it_is_no_key() -> None:
    other = secret(sha256=A)
    other["metadata"]["labels"] = None
    assert api_keys([other]) == api_keys([])


def test_digest_when_in_two_namespaces_then_both_are_reported() -> None:
    """The older one may be the copy: a digest does not show which namespace the key names. In any order of the list."""
    secrets = [secret(namespace="b", age=1, sha256=A), secret(namespace="a", age=2, sha256=A)]
    for order in itertools.permutations(secrets):
        keys = api_keys(order)
        assert {entry: grant.namespace for entry, grant in keys.grants.items()} == {f"a.{A}": "a", f"b.{A}": "b"}
        (fault,) = set(keys.faults.values())
        assert keys.faults.keys() == {SecretKey("a", "app"), SecretKey("b", "app")}
        assert "another namespace has a Secret with the same SHA-256" in fault


def test_digest_when_twice_in_namespace_then_each_has_a_fault() -> None:
    """Another namespace has it once."""
    secrets = [secret("old", "a", 1, sha256=A), secret("young", "a", 2, sha256=A), secret("app", "b", 3, sha256=A)]
    faults = dict(api_keys(secrets).faults)
    assert "the older Secret old" in faults.pop(SecretKey("a", "young"))
    assert len(set(faults.values())) == 1
    assert faults.keys() == {SecretKey("a", "old"), SecretKey("b", "app")}


def test_digest_when_two_of_a_namespace_have_it_then_oldest() -> None:
    secrets = [
        secret("young", age=2, sha256=A),
        secret("old", age=1, sha256=A, models="x"),
        secret("other", age=1, sha256=B),
    ]
    for order in itertools.permutations(secrets):
        keys = api_keys(order)
        assert {entry: grant.name for entry, grant in keys.grants.items()} == {f"n.{A}": "old", f"n.{B}": "other"}
        assert keys.faults.keys() == {SecretKey("n", "young")}
