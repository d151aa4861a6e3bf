"""The local cluster as a world: what it keeps, what it tells, what it refuses."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from local.local_cluster import (
    LABELS,
    MODEL,
    OWNER,
    SECONDS,
    SLEEPER,
    container,
    deployment,
    eventually,
    get,
    job,
    model,
    owned_by,
    running,
    secret,
    until,
)

from headrace.api import vocabulary as v
from headrace.control.world import ChildRefused
from headrace.errors import InvalidResource, NotFound
from headrace.kinds.modeldeployment.peers import peers_of
from headrace.local.cluster import LocalCluster
from headrace.local.store import MAX_EVENTS
from headrace.reconcile.conditions import Condition, rendered
from headrace.reconcile.world import Child, ChildKey, Event, Manifest, ObjectKey, ResourceKey

DIGEST = "sha256:" + "ab" * 32


def key(name: str) -> ResourceKey:
    return ResourceKey(v.MODEL_DEPLOYMENT, MODEL.namespace, name)


def heard(cluster: LocalCluster) -> list[ResourceKey | None]:
    changes: list[ResourceKey | None] = []
    cluster.subscribe(changes.append)
    return changes


def accepted(status: str, reason: str) -> Manifest:
    assert status in ("True", "False")
    condition = Condition(v.ACCEPTED, "True" if status == "True" else "False", reason, "because")
    return {"conditions": rendered([condition], [], 1, time.time())}


# -- the user's objects --------------------------------------------------------------------------------------


async def test_apply_when_resource_is_new_adds_defaults_and_identity(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        now, before = cluster.apply_object(model())
        assert before is None
        assert now["spec"]["runtime"]["type"] == "LLM"
        assert now["metadata"]["generation"] == 1
        assert now["metadata"]["uid"]
        assert datetime.fromisoformat(now["metadata"]["creationTimestamp"]).tzinfo == UTC


async def test_apply_when_repeated_changes_nothing_and_tells_nobody(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.apply_object(model())
        changes = heard(cluster)
        now, before = cluster.apply_object(model())
        assert now == before
        assert changes == []


async def test_apply_when_spec_changes_counts_a_generation(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        first, _ = cluster.apply_object(model())
        await cluster.write_status(MODEL, {"replicas": 0})
        now, _ = cluster.apply_object({**model(replicas=2), "status": {"replicas": 9}})
        assert now["metadata"]["generation"] == 2
        assert now["metadata"]["uid"] == first["metadata"]["uid"]
        assert now["status"] == {"replicas": 0}


async def test_apply_when_only_a_label_changes_keeps_the_generation(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.apply_object(model())
        labelled = model()
        labelled["metadata"]["labels"] = {"team": "a"}
        now, before = cluster.apply_object(labelled)
        assert now != before
        assert now["metadata"]["generation"] == 1


async def test_apply_when_dry_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        now, before = cluster.apply_object(model(), dry_run=True)
        assert (now["metadata"]["generation"], before) == (1, None)
        assert cluster.keys() == []


@pytest.mark.parametrize("dry_run", [True, False])
async def test_apply_when_resource_is_invalid_names_the_field(tmp_path: Path, *, dry_run: bool) -> None:
    async with running(tmp_path) as cluster:
        with pytest.raises(InvalidResource) as caught:
            cluster.apply_object(model(replicas=-1), dry_run=dry_run)
        assert [cause.field for cause in caught.value.causes] == ["spec.replicas"]
        assert cluster.keys() == []


async def test_delete_when_there_is_no_such_object_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        with pytest.raises(NotFound, match="smol"):
            cluster.delete_object(ObjectKey("ModelDeployment", "default", "smol"))


async def test_delete_when_the_resource_has_children_collects_them_too(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        now, _ = cluster.apply_object(model())
        child = owned_by(now, deployment(container(SLEEPER)))
        await cluster.apply(MODEL, child)
        assert list(cluster.observe(MODEL).children) == [child.key]
        changes = heard(cluster)
        cluster.delete_object(ObjectKey("ModelDeployment", "default", "smol"))
        assert MODEL in changes
        assert cluster.resource(MODEL) is None
        assert cluster.observe(MODEL).children == {}
        await until(cluster, "Pod", lambda pods: not pods)


# -- what survives -------------------------------------------------------------------------------------------


async def test_restarted_cluster_has_user_objects_and_events_only(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as cluster:
        now, _ = cluster.apply_object(model())
        cluster.apply_object(secret("mine", key="x"))
        cluster.provide_secret("default", "platform", {"user": "ann"})
        await cluster.record(MODEL, Event("Normal", v.CACHED, "it is there"))
        await cluster.apply(MODEL, owned_by(now, deployment(container(SLEEPER))))
        uid = get(cluster, "ModelDeployment", "smol")["metadata"]["uid"]
    async with running(tmp_path) as cluster:
        assert get(cluster, "ModelDeployment", "smol")["metadata"]["uid"] == uid
        assert [found["metadata"]["name"] for found in cluster.index.list("Secret")] == ["mine"]
        assert [found["message"] for found in cluster.index.list("Event")] == ["it is there"]
        assert cluster.observe(MODEL).children == {}
        assert cluster.observe(MODEL).pods == ()


async def test_restarted_cluster_has_recorded_status_only(tmp_path: Path) -> None:
    source = {"uri": "https://example.com/model.gguf", "digest": DIGEST, "path": "a/b", "bytes": 1}
    async with running(tmp_path) as cluster:
        cluster.apply_object(model())
        await cluster.write_status(
            MODEL, {"source": source, "readyReplicas": 1, "replicas": 1, **accepted("True", v.VALID)}
        )
    async with running(tmp_path) as cluster:
        status = get(cluster, "ModelDeployment", "smol")["status"]
        assert status["source"] == source
        assert "readyReplicas" not in status
        assert [condition["type"] for condition in status["conditions"]] == list(v.CONDITIONS)
        assert {(c["status"], c["reason"]) for c in status["conditions"]} == {("Unknown", v.PENDING)}
        assert all(condition["message"] for condition in status["conditions"])


async def test_restarted_cluster_has_no_deleted_objects(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.apply_object(model())
        cluster.delete_object(ObjectKey("ModelDeployment", "default", "smol"))
    async with running(tmp_path) as cluster:
        assert cluster.keys() == []


async def test_started_cluster_removes_files_of_a_killed_one(tmp_path: Path) -> None:
    (tmp_path / "pods").mkdir()
    (tmp_path / "pods/default.gone.log").write_text("old")
    async with running(tmp_path):
        assert list((tmp_path / "pods").iterdir()) == []


# -- children ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PodDisruptionBudget", "NetworkPolicy", "ServiceAccount"])
async def test_child_when_it_is_policy_is_skipped(tmp_path: Path, kind: str) -> None:
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, _child("policy/v1", kind))
        assert cluster.observe(MODEL).children == {}


async def test_child_when_its_kind_is_unknown_is_refused_by_name(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        with pytest.raises(ChildRefused, match="StatefulSet"):
            await cluster.apply(MODEL, _child("apps/v1", "StatefulSet"))


async def test_child_when_applied_again_equal_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, _child("v1", "Service"))
        changes = heard(cluster)
        await cluster.apply(MODEL, _child("v1", "Service"))
        assert changes == []


async def test_child_when_deleted_twice_is_gone(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        child = _child("v1", "Service")
        await cluster.apply(MODEL, child)
        await cluster.delete(MODEL, child.key)
        await cluster.delete(MODEL, child.key)
        assert cluster.observe(MODEL).children == {}


async def test_observe_returns_only_own_children_and_pods(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        runtime, fetch = deployment(container(SLEEPER)), job(container(SLEEPER))
        await cluster.apply(MODEL, runtime)
        await cluster.apply(MODEL, fetch)
        observed = cluster.observe(MODEL)
        assert observed.children.keys() == {runtime.key, fetch.key}
        assert len(observed.pods) == 2
        assert cluster.observe(key("other")).pods == ()


async def test_pod_when_it_changes_asks_for_a_look_at_its_resource(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        changes = heard(cluster)
        await cluster.apply(MODEL, job(container("exit 0")))
        await until(cluster, "Job", lambda jobs: jobs[0]["status"].get("succeeded") == 1)
        assert set(changes) == {MODEL}


# -- names and keys ------------------------------------------------------------------------------------------


async def test_name_of_an_older_resource_is_taken_for_the_younger(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.apply_object(model("a", model=_called("smollm")))
        cluster.apply_object(model("b", model=_called("smollm")))
        assert peers_of(cluster.observe(key("a"))).names_taken == {}
        assert peers_of(cluster.observe(key("b"))).names_taken == {"smollm": "a"}


async def test_names_when_a_resource_has_none_are_its_own_name(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.apply_object(model("a"))
        cluster.apply_object(model("b", model=_called("a")))
        assert peers_of(cluster.observe(key("b"))).names_taken == {"a": "a"}


@pytest.mark.parametrize(("reason", "taken"), [(v.SOURCE_NOT_ALLOWED, dict[str, str]()), (v.NAME_TAKEN, {"a": "a"})])
async def test_name_of_a_refused_holder_is_free_unless_it_waits(
    tmp_path: Path, reason: str, taken: dict[str, str]
) -> None:
    async with running(tmp_path) as cluster:
        cluster.apply_object(model("a"))
        cluster.apply_object(model("b", model=_called("a")))
        await cluster.write_status(key("a"), accepted("False", reason))
        assert peers_of(cluster.observe(key("b"))).names_taken == taken


async def test_name_when_released_enqueues_those_that_may_want_it(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.apply_object(model("a"))
        cluster.apply_object(model("b", model=_called("a")))
        changes = heard(cluster)
        cluster.delete_object(ObjectKey("ModelDeployment", "default", "a"))
        assert key("b") in changes


async def test_name_when_added_enqueues_no_others(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.apply_object(model("a"))
        changes = heard(cluster)
        cluster.apply_object(model("b"))
        assert changes == [key("b")]


async def test_status_when_written_enqueues_its_resource_only(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.apply_object(model("a"))
        cluster.apply_object(model("b"))
        changes = heard(cluster)
        await cluster.write_status(key("a"), accepted("True", v.VALID))
        await cluster.write_status(key("a"), get(cluster, "ModelDeployment", "a")["status"])
        assert changes == [key("a")]


async def test_api_key_opens_its_namespace_or_the_listed_models(tmp_path: Path) -> None:
    label, other = {v.API_KEY_LABEL: ""}, {"other": ""}
    async with running(tmp_path) as cluster:
        changes = heard(cluster)
        cluster.apply_object(secret("all", label, sha256="a" * 64))
        cluster.apply_object(secret("some", label, sha256="b" * 64, models="x, y"))
        cluster.apply_object(secret("none", other, sha256="c" * 64))
        grants = cluster.api_keys()
        assert {entry: (grant.name, grant.models) for entry, grant in grants.items()} == {
            f"default.{'a' * 64}": ("all", ()),
            f"default.{'b' * 64}": ("some", ("x", "y")),
        }
        assert {grant.namespace for grant in grants.values()} == {"default"}
        assert changes == [None, None]


async def test_api_key_when_label_is_removed_opens_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.apply_object(secret("all", {v.API_KEY_LABEL: ""}, sha256="a" * 64))
        changes = heard(cluster)
        cluster.apply_object(secret("all", sha256="a" * 64))
        assert changes == [None]
        assert cluster.api_keys() == {}


# -- events --------------------------------------------------------------------------------------------------


async def test_event_when_recorded_again_is_counted(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.apply_object(model())
        for message in ("0 to 1", "0 to 1", "1 to 0"):
            await cluster.record(MODEL, Event("Normal", v.SCALED, message))
        found = {event["message"]: event for event in cluster.index.list("Event")}
        assert {message: event["count"] for message, event in found.items()} == {"0 to 1": 2, "1 to 0": 1}
        assert found["0 to 1"]["involvedObject"]["name"] == "smol"


async def test_event_when_there_are_too_many_drives_out_the_oldest(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.apply_object(model())
        for number in range(MAX_EVENTS + 5):
            await cluster.record(MODEL, Event("Normal", v.SCALED, f"number {number}"))
        messages = {event["message"] for event in cluster.index.list("Event")}
        assert len(messages) == MAX_EVENTS
        assert f"number {MAX_EVENTS + 4}" in messages


# -- stopping ------------------------------------------------------------------------------------------------


async def test_cluster_when_stopped_ends_every_pod_and_starts_none(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, deployment(container(SLEEPER), 3))
        await cluster.stop(SECONDS)
        await cluster.apply(MODEL, deployment(container(SLEEPER), 4))
        assert cluster.index.list("Pod") == []


async def test_cluster_when_a_pod_takes_too_long_to_stop_kills_it(tmp_path: Path) -> None:
    deaf = f"trap '' TERM; touch {tmp_path}/up; while true; do sleep 600; done"
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, deployment(container(deaf), terminationGracePeriodSeconds=600))
        await eventually((tmp_path / "up").exists)
        began = time.monotonic()
        await cluster.stop(0.1)
        assert time.monotonic() - began < SECONDS
        assert cluster.index.list("Pod") == []


def _called(name: str) -> Manifest:
    return {"name": name, "source": {"uri": "https://example.com/model.gguf"}}


def _child(api_version: str, kind: str) -> Child:
    metadata = {"name": "smol", "namespace": "default", "labels": LABELS, "ownerReferences": [OWNER]}
    manifest = {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": {}}
    return Child(ChildKey.of(manifest), manifest)
