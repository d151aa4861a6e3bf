"""Whose a public name is, and what a Secret opens."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.public_names import Names
from headrace.reconcile.world import Manifest, ResourceKey


def named(name: str, wants: str | None = None, *, has: str | None = None, age: int = 0, refused: str = "") -> Manifest:
    """A resource; the higher the age, the older."""
    status: dict[str, Any] = {} if has is None else {"publicName": has}
    if refused:
        status["conditions"] = [{"type": v.ACCEPTED, "status": "False", "reason": refused}]
    return {
        "metadata": {"name": name, "namespace": "n", "creationTimestamp": f"{2030 - age}-01-01T00:00:00Z"},
        "spec": {"model": {} if wants is None else {"name": wants}},
        "status": status,
    }


def taken(mine: Manifest, *others: Manifest) -> dict[str, str]:
    names = Names()
    for manifest in (mine, *others):
        names.update(key_of(manifest), manifest)
    return names.taken(key_of(mine))


A, B = (ResourceKey(v.MODEL_DEPLOYMENT, "n", name) for name in "ab")


def key_of(manifest: Manifest) -> ResourceKey:
    return ResourceKey(v.MODEL_DEPLOYMENT, "n", manifest["metadata"]["name"])


def test_name_when_nobody_has_it_then_the_older_one_gets_it() -> None:
    old, young = named("old", "chat", age=2), named("young", "chat", age=1)
    assert taken(old, young) == {}
    assert taken(young, old) == {"chat": "old"}


def test_name_when_a_younger_one_serves_it_then_older_one_waits() -> None:
    old, young = named("old", "chat", has="old", age=2), named("young", "chat", has="chat", age=1)
    assert taken(old, young) == {"chat": "young"}
    assert taken(young, old) == {}
    assert taken(named("other", "old"), old) == {"old": "old"}


def test_name_when_its_owner_renames_then_keeps_first_meanwhile() -> None:
    """It keeps the first until it has the second."""
    owner, other = named("owner", "new", has="chat", age=1), named("other", "chat", age=2)
    assert taken(other, owner) == {"chat": "owner"}
    assert taken(other, named("owner", "new", has="new", age=1)) == {}


def test_name_when_its_first_claimant_is_invalid_then_it_is_free() -> None:
    assert taken(named("a", "chat"), named("b", "chat", age=9, refused=v.SOURCE_NOT_ALLOWED)) == {}
    assert taken(named("a", "chat"), named("b", "chat", age=9, refused=v.NAME_TAKEN)) == {"chat": "b"}


def test_name_when_two_were_given_it_at_once_then_older_keeps_it() -> None:
    old, young = named("old", "chat", has="chat", age=2), named("young", "chat", has="chat", age=1)
    assert taken(old, young) == {}
    assert taken(young, old) == {"chat": "old"}


def test_name_when_several_are_before_it_then_the_owner_is_named() -> None:
    """If none of them has it, the oldest is named."""
    oldest, older, mine = named("oldest", "chat", age=3), named("older", "chat", age=2), named("mine", "chat", age=1)
    assert taken(mine, oldest, older) == {"chat": "oldest"}
    assert taken(mine, oldest, named("older", "chat", has="chat", age=2)) == {"chat": "older"}


def test_name_when_the_resource_is_gone_then_nothing_is_said() -> None:
    names = Names()
    names.update(A, named("a"))
    assert names.update(A, None) == set()
    assert names.taken(A) == {}


def test_name_when_released_then_only_its_claimants_concerned() -> None:
    names = Names()
    for manifest in (named("a", "chat", has="chat"), named("b", "chat"), named("c", "other")):
        names.update(key_of(manifest), manifest)
    assert names.update(A, named("a", "chat", has="chat")) == set()
    assert names.update(A, named("a", "new", has="new")) == {B}
    assert names.update(ResourceKey(v.MODEL_DEPLOYMENT, "elsewhere", "x"), named("x", "chat")) == set()


@pytest.mark.parametrize("spec", [{}, {"model": None}, {"model": "x"}])
def test_name_when_a_stored_spec_is_broken_then_it_wants_its_own(spec: dict[str, Any]) -> None:
    assert taken(named("a", "b"), {**named("b", age=9), "spec": spec}) == {"b": "b"}
