"""What is gone, what has come back, and whose an object is."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace.api.vocabulary import API_VERSION, MODEL_DEPLOYMENT
from headrace.reconcile.world import Manifest, ObjectKey, ResourceKey
from headrace_operator.index import Entry, Index

KEY = ObjectKey("Service", "default", "smollm2")
OWNER = ResourceKey(MODEL_DEPLOYMENT, "default", "smollm2")
CONTROLLED = {
    "apiVersion": API_VERSION,
    "kind": MODEL_DEPLOYMENT,
    "name": "smollm2",
    "uid": "r1",
    "controller": True,
}


def service(version: int, uid: str = "u1", **metadata: Any) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": KEY.name,
            "namespace": KEY.namespace,
            "uid": uid,
            "resourceVersion": str(version),
            "ownerReferences": [CONTROLLED],
            **metadata,
        },
        "spec": {"ports": [{"port": 80}]},
    }


def index() -> tuple[Index, list[tuple[int | None, int | None]]]:
    told: list[tuple[int | None, int | None]] = []

    def changed(key: ObjectKey, before: Entry | None, now: Entry | None) -> None:
        told.append((before.version if before else None, now.version if now else None))

    return Index(changed), told


def test_remove_when_write_is_answered_after_it_then_stays_gone() -> None:
    objects, _ = index()
    objects.put(service(5))
    objects.remove(KEY, "u1", 8)
    objects.put(service(7))
    assert objects.get(KEY) is None


def test_remove_when_the_object_is_labelled_again_then_there() -> None:
    objects, _ = index()
    objects.put(service(5))
    objects.remove(KEY, "u1", 6)
    objects.put(service(7))
    assert objects.entry(KEY) is not None


def test_remove_when_name_is_of_a_newer_object_then_that_stays() -> None:
    objects, _ = index()
    objects.put(service(9, uid="u2"))
    objects.remove(KEY, "u1", 8)
    objects.put(service(7, uid="u1"))
    entry = objects.entry(KEY)
    assert entry is not None
    assert entry.uid == "u2"


@given(st.permutations(range(6)))
def test_index_when_news_are_out_of_order_then_the_newest_wins(order: list[int]) -> None:
    """u1 lives from 0 to 2 and is deleted at 3; u2 is made at 4 and changed at 5."""
    objects, _ = index()
    news = {
        **{at: service(at, uid="u1") for at in (0, 1, 2)},
        **{at: service(at, uid="u2") for at in (4, 5)},
    }
    for at in order:
        if at in news:
            objects.put(news[at])
        else:
            objects.remove(KEY, "u1", at)
    entry = objects.entry(KEY)
    assert entry is not None
    assert (entry.uid, entry.version) == ("u2", 5)
    assert [key for key, _ in objects.owned(OWNER)] == [KEY]


def test_body_when_it_is_kept_then_without_noise() -> None:
    objects, _ = index()
    noise = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "x"}
    objects.put(service(1, managedFields=[{"manager": "kubectl"}], annotations=noise))
    kept = objects.get(KEY)
    assert kept is not None
    assert "managedFields" not in kept["metadata"]
    assert kept["metadata"]["annotations"] == {"mine": "x"}
