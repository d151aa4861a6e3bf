"""Names of children: resources of two kinds never want one, whatever they are called."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from kinds.greeting import GREETING
from kinds.reconcile_world import SETTINGS, World

from headrace.api.vocabulary import COMPONENT_FETCH, COMPONENT_RUNTIME
from headrace.kinds.modeldeployment import MODEL_DEPLOYMENT
from headrace.kinds.registry import RESOURCE_KINDS
from headrace.kinds.resource_kind import ResourceKind

HEXADECIMAL = re.compile(r"[0-9a-f]{8}")
MODEL_PARTS = st.sampled_from([(COMPONENT_RUNTIME,), (COMPONENT_FETCH,), (COMPONENT_FETCH, "0a1b2c3d"), ("0a1b2c3d",)])
LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,12}[a-z0-9])?", fullmatch=True)
WITH_SUFFIXES = LABEL | st.sampled_from(["a-other", "a-third", "a-runtime", "a-other-0a1b2c3d"])


OTHER, THIRD = (replace(MODEL_DEPLOYMENT, suffix=suffix) for suffix in ("other", "third"))


def test_suffixes_are_words_that_no_other_kinds_names_end_in() -> None:
    suffixes = [kind.suffix for kind in (*RESOURCE_KINDS.values(), GREETING) if kind is not MODEL_DEPLOYMENT]
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


@given(WITH_SUFFIXES, WITH_SUFFIXES, MODEL_PARTS, st.lists(LABEL, max_size=2), st.lists(LABEL, max_size=2))
def test_names_of_two_kinds_never_meet(
    name: str, other: str, model_parts: tuple[str, ...], parts: list[str], other_parts: list[str]
) -> None:
    """Whatever the resources and the parts are called."""
    names = {
        MODEL_DEPLOYMENT.child_name(name, *model_parts),
        OTHER.child_name(other, *parts),
        THIRD.child_name(name, *other_parts),
    }
    assert len(names) == 3


@given(st.lists(st.tuples(st.sampled_from([MODEL_DEPLOYMENT, OTHER]), WITH_SUFFIXES, WITH_SUFFIXES), unique_by=repr))
def test_names_of_cluster_scoped_children_never_meet(resources: list[tuple[ResourceKind, str, str]]) -> None:
    """Whatever the namespaces, the resources and their kinds are called."""
    names = {kind.cluster_child_name(namespace, name) for kind, namespace, name in resources}
    assert len(names) == len(resources)


def test_names_of_cluster_scoped_children_say_whose_they_are() -> None:
    one, two = OTHER.cluster_child_name("a-a", "b", "x"), OTHER.cluster_child_name("a", "a-b", "x")
    assert re.fullmatch(r"a-a-b-x-[0-9a-f]{8}-other", one)
    assert re.fullmatch(r"a-a-b-x-[0-9a-f]{8}-other", two)
    assert one != two
