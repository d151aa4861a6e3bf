"""Which resources a change concerns, and what a rule is given of others."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds.greeting import GREETING, greeting, registered

from headrace.api.vocabulary import MODEL_DEPLOYMENT, READY
from headrace.control.relations import References, Relations
from headrace.kinds.registry import RESOURCE_KINDS
from headrace.reconcile.world import Manifest, ResourceKey

KEYS = st.sampled_from([ResourceKey(kind, "n", name) for kind in ("A", "B") for name in "xyz"])
MODEL = ResourceKey(MODEL_DEPLOYMENT, "n", "smol")
GREETINGS = [ResourceKey(GREETING.kind.kind, "n", name) for name in ("a", "b")]


@pytest.fixture(autouse=True)
def _second_kind() -> Iterator[None]:
    with registered():
        yield


def a_greeting(key: ResourceKey, model: str = MODEL.name) -> Manifest:
    made = greeting(key.name, model)
    return {**made, "metadata": {**made["metadata"], "namespace": key.namespace}}


def a_model(**status: Any) -> Manifest:
    metadata = {"name": MODEL.name, "namespace": MODEL.namespace, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"kind": MODEL.kind, "metadata": metadata, "spec": {"model": {}}, "status": status}


@given(st.lists(st.tuples(KEYS, st.sets(KEYS))))
def test_references_agree_in_both_directions(
    changes: list[tuple[ResourceKey, set[ResourceKey]]],
) -> None:
    """Whatever the order of changes, the reverse index is what the last ones say, and holds nothing else."""
    references, expected = References(), dict[ResourceKey, set[ResourceKey]]()
    for key, referenced in changes:
        references.set(key, referenced)
        expected[key] = referenced
    assert all(references.of(key) == referenced for key, referenced in expected.items())
    for key in {each for referenced in expected.values() for each in referenced}:
        assert references.to(key) == {by for by, referenced in expected.items() if key in referenced}
    for key in expected:
        references.set(key, ())
    assert not references._to
    assert not references._of


def test_change_concerns_those_that_refer_to_it() -> None:
    relations = Relations()
    for key in GREETINGS:
        assert relations.update(key, a_greeting(key)) == []
    assert relations.update(MODEL, a_model()) == GREETINGS
    assert relations.update(MODEL, None) == GREETINGS
    relations.update(GREETINGS[0], a_greeting(GREETINGS[0], "other"))
    assert relations.update(MODEL, a_model()) == GREETINGS[1:]
    relations.update(GREETINGS[1], None)
    assert relations.update(MODEL, None) == []


def test_status_concerns_referrers_when_what_they_read_changes() -> None:
    relations, ready = Relations(), {"type": READY, "status": "True", "reason": "Ready"}
    relations.update(GREETINGS[0], a_greeting(GREETINGS[0]))
    relations.update(MODEL, a_model())
    unread = {"replicas": 2, "revisions": [{"name": "1"}]}
    for status, concerned in (
        ({"conditions": [{**ready, "message": "1 of 1"}]}, True),
        ({"conditions": [{**ready, "message": "2 of 2"}], **unread}, False),
        ({"conditions": [{**ready, "reason": "Idle"}], **unread}, True),
        ({"conditions": [{**ready, "reason": "Idle"}], "publicName": "smol"}, True),
    ):
        assert relations.update(MODEL, a_model(**status)) == GREETINGS[: int(concerned)]
    deleting = a_model(**status)
    for field, value in (("generation", 2), ("deletionTimestamp", "2026-01-01T00:00:01Z"), ("uid", "other")):
        deleting["metadata"][field] = value
        assert relations.update(MODEL, copy.deepcopy(deleting)) == GREETINGS[:1]


def test_references_that_raise_are_logged_and_none(caplog: pytest.LogCaptureFixture) -> None:
    """The caller has stored the resource, so nothing may be raised."""
    relations = Relations()
    relations.update(GREETINGS[0], a_greeting(GREETINGS[0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RESOURCE_KINDS, GREETING.kind.kind, replace(GREETING, references=lambda manifest: manifest["x"]))
        assert relations.update(GREETINGS[0], a_greeting(GREETINGS[0])) == []
    assert "Greeting n/a" in caplog.text
    assert relations.update(MODEL, a_model()) == []


def test_change_of_another_namespace_or_kind_concerns_nobody() -> None:
    relations = Relations()
    relations.update(GREETINGS[0], a_greeting(GREETINGS[0]))
    assert relations.update(ResourceKey(MODEL.kind, "m", MODEL.name), a_model()) == []
    assert relations.update(GREETINGS[1], a_greeting(GREETINGS[1], GREETINGS[1].name)) == []


def test_reference_that_does_not_exist_is_absent() -> None:
    relations, there = Relations(), dict[ResourceKey, Manifest]()
    relations.update(GREETINGS[0], a_greeting(GREETINGS[0]))
    assert relations.observed(GREETINGS[0], {}, (), there.get).references == {}
    there[MODEL] = a_model()
    assert relations.observed(GREETINGS[0], {}, (), there.get).references == there
    assert relations.observed(GREETINGS[0], {}, (), there.get).peers is None
