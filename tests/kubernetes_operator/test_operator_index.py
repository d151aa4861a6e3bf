"""What the index keeps, and whose news it believes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.api.vocabulary import API_VERSION, MODEL_DEPLOYMENT
from headrace.reconcile.world import Manifest, ObjectKey, ResourceKey
from headrace_operator.index import Entry, Index, digest_of, workload_of

KEY = ObjectKey("Service", "n", "s")


def controlled_by(model: str) -> Manifest:
    return {"apiVersion": API_VERSION, "kind": MODEL_DEPLOYMENT, "name": model, "uid": f"{model}-1", "controller": True}


def service(version: int, uid: str = "u", model: str | None = "m", **spec: Any) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "s",
            "namespace": "n",
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {},
            "ownerReferences": [] if model is None else [controlled_by(model)],
            "managedFields": [{"manager": "x"}],
        },
        "spec": spec,
    }


class Heard:
    """An index, and what it told."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, int]] = []
        self.index = Index(self._changed)

    def _changed(self, key: ObjectKey, before: Entry | None, now: Entry | None) -> None:
        assert key == KEY
        self.changes.append((0 if before is None else before.version, 0 if now is None else now.version))


def test_object_when_put_then_it_is_there_without_unread_fields() -> None:
    heard = Heard()
    heard.index.put(service(1, port=80))
    found = heard.index.get(KEY)
    assert found is not None
    assert found["spec"] == {"port": 80}
    assert "managedFields" not in found["metadata"]


def test_pod_when_put_then_its_spec_is_left_out() -> None:
    index = Index(lambda *_: None)
    index.put({**service(1), "kind": "Pod", "spec": {"containers": []}, "status": {"phase": "Running"}})
    found = index.get(ObjectKey("Pod", "n", "s"))
    assert found is not None
    assert "spec" not in found
    assert found["status"] == {"phase": "Running"}


def test_pod_when_scheduled_keeps_its_node_name() -> None:
    index = Index(lambda *_: None)
    index.put({**service(1), "kind": "Pod", "spec": {"containers": [], "nodeName": "node-1"}})
    found = index.get(ObjectKey("Pod", "n", "s"))
    assert found is not None
    assert found["spec"] == {"nodeName": "node-1"}


@pytest.mark.parametrize(
    ("kind", "name", "workload"),
    [
        ("Job", "fetch-1", ObjectKey("Job", "n", "fetch-1")),
        ("DaemonSet", "agent", ObjectKey("DaemonSet", "n", "agent")),
        ("ReplicaSet", "smol-1-77f9", ObjectKey("Deployment", "n", "smol-1")),
        ("ReplicaSet", "smol-1-88aa", None),
        ("StatefulSet", "smol", None),
        (None, "", None),
    ],
)
def test_workload_of_a_pod(kind: str | None, name: str, workload: ObjectKey | None) -> None:
    reference = {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "w", "controller": True}
    pod = service(1)
    pod["metadata"].update(ownerReferences=[reference] if kind else [], labels={"pod-template-hash": "77f9"})
    assert workload_of(pod) == workload


def test_news_when_older_than_what_is_known_then_it_is_none() -> None:
    heard = Heard()
    heard.index.put(service(9, port=9))
    heard.index.put(service(10, port=10))
    heard.index.put(service(9, port=9))
    heard.index.put(service(10, port=10))
    assert heard.changes == [(0, 9), (9, 10)]


def test_object_when_deleted_then_late_answer_is_ignored() -> None:
    heard = Heard()
    heard.index.put(service(1))
    heard.index.remove(KEY, "u")
    heard.index.put(service(2))
    assert heard.index.get(KEY) is None
    assert heard.changes == [(0, 1), (1, 0)]


def test_object_when_recreated_before_delete_seen_then_it_stays() -> None:
    heard = Heard()
    heard.index.put(service(1))
    heard.index.put(service(5, uid="other"))
    heard.index.remove(KEY, "u")
    entry = heard.index.entry(KEY)
    assert entry is not None
    assert entry.uid == "other"


def test_owned_when_owner_changes_or_object_goes_then_not_owned() -> None:
    heard = Heard()
    heard.index.put(service(1))
    assert [key for key, _ in heard.index.owned(ResourceKey(MODEL_DEPLOYMENT, "n", "m"))] == [KEY]
    heard.index.put(service(2, model="other"))
    assert list(heard.index.owned(ResourceKey(MODEL_DEPLOYMENT, "n", "m"))) == []
    heard.index.remove(KEY, "u")
    assert list(heard.index.owned(ResourceKey(MODEL_DEPLOYMENT, "n", "other"))) == []
    assert heard.index.keys("Service") == []


def test_digest_when_only_a_controller_writes_then_the_same() -> None:
    before = service(1, port=80)
    after = {
        **service(2, port=80),
        "status": {"loadBalancer": {}},
        "metadata": {**service(2)["metadata"], "annotations": {"deployment.kubernetes.io/revision": "1"}},
    }
    assert digest_of(before) == digest_of(after)


def test_digest_when_our_fields_are_changed_then_it_is_another() -> None:
    labelled = service(1, port=80)
    labelled["metadata"]["labels"]["x"] = "y"
    assert len({digest_of(service(1, port=80)), digest_of(service(1, port=81)), digest_of(labelled)}) == 3


@given(st.lists(st.tuples(st.integers(1, 30), st.sampled_from("ab"), st.booleans()), max_size=40))
def test_index_when_news_come_in_any_order_then_never_goes_back(news: list[tuple[int, str, bool]]) -> None:
    """While an object is there its versions only grow, and a life (uid) that ended stays ended."""
    heard = Heard()
    ended: set[str] = set()
    for version, uid, deleted in news:
        if deleted:
            heard.index.remove(KEY, uid)
            ended.add(uid)
        else:
            heard.index.put(service(version, uid=uid))
        entry = heard.index.entry(KEY)
        assert entry is None or entry.uid not in ended
    assert all(before < now for before, now in heard.changes if now)
    assert all(now == following for (_, now), (following, _) in itertools.pairwise(heard.changes))
