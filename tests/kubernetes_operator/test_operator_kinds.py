"""The world of an API server: resources of two kinds with one name, and what a former resource left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from kinds.greeting import GREETING, greeting, registered
from kubernetes_operator.operator_api import RecordingApi
from kubernetes_operator.test_operator_world import CONTROLLED, OWNER, PATH, Provided, resource, service, world

from headrace.api import vocabulary as v
from headrace.control.world import ChildRefused
from headrace.errors import CannotStart
from headrace.reconcile.world import Child, ChildKey, Manifest, ObjectKey, ResourceKey
from headrace_operator.client import NOT_FOUND, ApiError, ApiServer
from headrace_operator.index import Index, workload_of
from headrace_operator.kinds import Watched, watched_kinds
from headrace_operator.namespaces import Namespaces
from headrace_operator.watching import Watching
from headrace_operator.world import KubernetesWorld

OTHER = ResourceKey(GREETING.kind.kind, OWNER.namespace, OWNER.name)
OTHER_LABEL = GREETING.label
OTHERS = {**CONTROLLED, "kind": OTHER.kind, "uid": "o1"}
HASH = "5d4f8c7b9"


@pytest.fixture(autouse=True)
def _second_kind() -> Iterator[None]:
    with registered():
        yield


def two_kinds() -> KubernetesWorld:
    """A world with a resource of each kind."""
    made, _ = world()
    made.index.put({**resource(), "kind": OTHER.kind, "metadata": {**resource()["metadata"], "uid": OTHERS["uid"]}})
    return made


def deployment(reference: Manifest | None, name: str = "smollm2-1", label: str = v.MODEL_LABEL) -> Manifest:
    metadata = an_object(name, label, [] if reference is None else [reference])
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {}}


def pod(deployment: Manifest, **metadata: Any) -> Manifest:
    name, labels = deployment["metadata"]["name"], deployment["metadata"]["labels"]
    replica_set = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{name}-{HASH}", "uid": "rs"}
    made = an_object(f"{name}-{HASH}-x", v.MODEL_LABEL, [{**replica_set, "controller": True}])
    with_labels = {**labels, v.COMPONENT_LABEL: v.COMPONENT_RUNTIME, "pod-template-hash": HASH}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**made, "labels": with_labels, **metadata}, "status": {}}


def an_object(name: str, label: str, references: list[Manifest]) -> Manifest:
    return {
        "name": name,
        "namespace": "default",
        "uid": name,
        "resourceVersion": "5",
        "labels": {label: OWNER.name},
        "ownerReferences": references,
    }


def names(made: KubernetesWorld, key: ResourceKey) -> tuple[list[str], list[str]]:
    """The names of a resource's children, and of its pods."""
    observed = made.observe(key)
    return [child.name for child in observed.children], [pod["metadata"]["name"] for pod in observed.pods]


def test_kinds_when_they_share_name_then_each_sees_its_children() -> None:
    made = two_kinds()
    for each in (deployment(CONTROLLED), deployment(OTHERS, "smollm2-1-other", OTHER_LABEL)):
        made.index.put(each)
        made.index.put(pod(each))
    assert names(made, OWNER) == (["smollm2-1"], [f"smollm2-1-{HASH}-x"])
    assert names(made, OTHER) == (["smollm2-1-other"], [f"smollm2-1-other-{HASH}-x"])


def test_pod_when_labelled_ours_but_workload_anothers_then_not() -> None:
    made = two_kinds()
    made.index.put(deployment(OTHERS))
    made.index.put(pod(deployment(OTHERS)))
    assert names(made, OWNER) == ([], [])


def test_pod_when_uncontrolled_then_its_label_is_not_enough() -> None:
    made = two_kinds()
    made.index.put(pod(deployment(CONTROLLED), ownerReferences=[]))
    assert names(made, OWNER) == ([], [])


async def test_apply_when_the_name_is_another_kinds_child_then_refused() -> None:
    """Nothing is written."""
    made, api = world()
    await made.apply(OWNER, service())
    labels, others = {v.MANAGED_BY: "headrace", OTHER_LABEL: OTHER.name}, service(81).manifest
    others["metadata"].update(ownerReferences=[OTHERS], labels=labels)
    with pytest.raises(ChildRefused, match="give the Greeting smollm2 another name"):
        await made.apply(OTHER, Child(ChildKey.of(others), others))
    assert api.writes == [("apply", PATH)]


async def test_delete_when_the_child_is_another_kinds_then_it_stays() -> None:
    made, api = world()
    made.index.put({**resource(), "kind": OTHER.kind, "metadata": {**resource()["metadata"], "uid": OTHERS["uid"]}})
    await made.apply(OWNER, service())
    await made.delete(OTHER, service().key)
    assert [verb for verb, _ in api.writes] == ["apply"]


@pytest.mark.parametrize("reference", [None, {**CONTROLLED, "uid": "former"}])
async def test_child_when_of_a_former_resource_then_adopted_on_apply(reference: Manifest | None) -> None:
    """Its pods are seen before: a rule that did not would scale it to zero."""
    made, api = world()
    left = deployment(reference)
    path = "/apis/apps/v1/namespaces/default/deployments/smollm2-1"
    api.objects[path] = left
    made.index.put(left)
    made.index.put(pod(left))
    assert names(made, OWNER) == ([], [f"smollm2-1-{HASH}-x"])
    wanted = deployment(CONTROLLED)
    await made.apply(OWNER, Child(ChildKey.of(wanted), wanted))
    assert names(made, OWNER) == (["smollm2-1"], [f"smollm2-1-{HASH}-x"])
    assert made.observe(OWNER).children[ChildKey.of(wanted)]["metadata"]["uid"] == left["metadata"]["uid"]


def test_workload_when_replica_set_only_shares_prefix_then_none() -> None:
    made = pod(deployment(CONTROLLED))
    assert workload_of(made) == ObjectKey("Deployment", "default", "smollm2-1")
    made["metadata"]["ownerReferences"][0]["name"] = "smollm2-1-elsewhere"
    assert workload_of(made) is None


class Lacking(RecordingApi):
    """An API server without some CustomResourceDefinitions."""

    def __init__(self, *plurals: str) -> None:
        super().__init__()
        self._plurals = plurals

    async def listing(self, watched: Watched, namespace: str | None) -> None:
        if watched.plural in self._plurals:
            raise ApiError(NOT_FOUND, "not found")


@pytest.mark.parametrize(
    ("lacking", "named"),
    [
        (["greetings"], "does not know greetings.headrace.dev"),
        (["modeldeployments", "greetings"], "does not know modeldeployments.headrace.dev, greetings.headrace.dev"),
    ],
)
async def test_missing_definitions_are_each_named(lacking: list[str], named: str) -> None:
    watching = Watching(cast("ApiServer", Lacking(*lacking)), Index(lambda *_: None), ())
    with pytest.raises(CannotStart, match=named):
        await watching.watch(lambda: None)


def test_watched_kinds_include_a_registered_kind() -> None:
    watched = watched_kinds()
    assert watched["Greeting"].path("a", "b") == "/apis/headrace.dev/v1alpha1/namespaces/a/greetings/b"
    assert watched["Greeting"].selector is None
    assert watched["ConfigMap"].selector == "app.kubernetes.io/managed-by=headrace"


def stored_greeting(version: int, namespace: str = OWNER.namespace) -> Manifest:
    made = greeting(OWNER.name, OWNER.name)
    metadata = {**made["metadata"], "namespace": namespace, "uid": "g1", "resourceVersion": str(version)}
    return {**made, "metadata": metadata}


def test_change_of_a_referenced_model_enqueues_both() -> None:
    made, _ = world()
    made.index.put(stored_greeting(2))
    told: list[ResourceKey | None] = []
    made.subscribe(told.append)
    made.index.put({**resource(3), "status": {"replicas": 1}})
    assert told == [OWNER, OTHER]
    assert made.observe(OTHER).references[OWNER]["status"] == {"replicas": 1}
    made.index.put(resource(4, deletionTimestamp="2026-01-01T00:00:01Z"))
    assert made.observe(OTHER).references == {}


async def test_namespace_without_pods_needs_nothing() -> None:
    made, _ = world()
    namespaces = Provided()
    namespaces.error = ApiError(NOT_FOUND, "it was provided")
    made.lead(cast("Namespaces", namespaces))
    made.index.put(stored_greeting(2, "greeted"))
    assert namespaces.wanted == {OWNER.namespace}
    child = service().manifest
    child["metadata"] = {**child["metadata"], "name": "other", "namespace": "greeted", "ownerReferences": [OTHERS]}
    await made.apply(ResourceKey(OTHER.kind, "greeted", OTHER.name), Child(ChildKey.of(child), child))
