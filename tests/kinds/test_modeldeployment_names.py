"""Names of children: resources of two kinds never want one, whatever they are called."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds.reconcile_world import SETTINGS, World

from headrace.api.vocabulary import COMPONENT_FETCH, COMPONENT_RUNTIME, MODEL_DEPLOYMENT
from headrace.reconcile.names import CHILD_SUFFIXES, child_name

HEXADECIMAL = re.compile(r"[0-9a-f]{8}")
MODEL_PARTS = st.sampled_from([(COMPONENT_RUNTIME,), (COMPONENT_FETCH,), (COMPONENT_FETCH, "0a1b2c3d"), ("0a1b2c3d",)])
LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,12}[a-z0-9])?", fullmatch=True)
WITH_SUFFIXES = LABEL | st.sampled_from(["a-other", "a-third", "a-runtime", "a-other-0a1b2c3d"])


@pytest.fixture
def _more_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHILD_SUFFIXES, "Other", "other")
    monkeypatch.setitem(CHILD_SUFFIXES, "Third", "third")


def test_suffixes_are_words_that_no_other_kinds_names_end_in() -> None:
    suffixes = [suffix for kind, suffix in CHILD_SUFFIXES.items() if kind != MODEL_DEPLOYMENT]
    assert len(set(suffixes)) == len(suffixes)
    assert all(re.fullmatch(r"[a-z][a-z0-9]*", suffix) for suffix in suffixes)
    assert not any(HEXADECIMAL.fullmatch(suffix) for suffix in suffixes)
    assert not {COMPONENT_RUNTIME, COMPONENT_FETCH} & set(suffixes)


def test_names_when_of_children_then_have_a_part_but_services() -> None:
    children = World(settings=replace(SETTINGS, platform_namespace="headrace")).look().children
    bare = {child.key.kind for child in children if child.key.name == "smol"}
    ends = {child.key.name.removeprefix("smol-").rpartition("-")[2] for child in children if child.key.name != "smol"}
    assert bare == {"Service"}
    assert {COMPONENT_RUNTIME, COMPONENT_FETCH} <= ends
    assert all(end in (COMPONENT_RUNTIME, COMPONENT_FETCH) or HEXADECIMAL.fullmatch(end) for end in ends)


@pytest.mark.usefixtures("_more_kinds")
@given(WITH_SUFFIXES, WITH_SUFFIXES, MODEL_PARTS, st.lists(LABEL, max_size=2), st.lists(LABEL, max_size=2))
def test_names_of_two_kinds_never_meet(
    name: str, other: str, model_parts: tuple[str, ...], parts: list[str], other_parts: list[str]
) -> None:
    """Whatever the resources and the parts are called."""
    names = {
        child_name(MODEL_DEPLOYMENT, name, *model_parts),
        child_name("Other", other, *parts),
        child_name("Third", name, *other_parts),
    }
    assert len(names) == 3
