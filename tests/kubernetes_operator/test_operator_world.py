"""The world of an API server: what is written, and what is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import pytest
from kubernetes_operator.operator_api import RecordingApi

from headrace.api import vocabulary as v
from headrace.control.world import ChildRefused
from headrace.kinds.modeldeployment.peers import peers_of
from headrace.reconcile.world import Child, ChildKey, Event, Manifest, ResourceKey
from headrace_operator import world as world_module
from headrace_operator.client import (
    CONFLICT,
    FORBIDDEN,
    INVALID,
    NOT_FOUND,
    TIMED_OUT,
    TOO_MANY,
    UNREACHABLE,
    ApiError,
    ApiServer,
)
from headrace_operator.namespaces import Namespaces
from headrace_operator.world import KubernetesWorld

OWNER = ResourceKey(v.MODEL_DEPLOYMENT, "default", "smollm2")
PATH = "/api/v1/namespaces/default/services/smollm2"
CONTROLLED = {
    "apiVersion": v.API_VERSION,
    "kind": "ModelDeployment",
    "name": "smollm2",
    "uid": "r1",
    "controller": True,
}


METADATA = {"name": "smollm2", "namespace": "default", "ownerReferences": [CONTROLLED]}


class Provided:
    """Namespaces that need nothing."""

    error: ApiError | None = None

    def want(self, namespaces: frozenset[str]) -> None:
        self.wanted = namespaces

    async def provide(self, namespace: str) -> None:
        if self.error is not None:
            raise self.error


def world(clock: Callable[[], float] = time.monotonic) -> tuple[KubernetesWorld, RecordingApi]:
    api = RecordingApi()
    made = KubernetesWorld(cast("ApiServer", api), "operator-0", clock=clock)
    made.lead(cast("Namespaces", Provided()))
    made.index.put(resource())
    return made, api


def resource(version: int = 1, **metadata: Any) -> Manifest:
    return {
        "apiVersion": v.API_VERSION,
        "kind": "ModelDeployment",
        "metadata": {
            "name": "smollm2",
            "namespace": "default",
            "uid": "r1",
            "resourceVersion": str(version),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **metadata,
        },
        "spec": {"model": {}},
    }


def service(port: int = 80) -> Child:
    labels = {v.MANAGED_BY: "headrace", v.MODEL_LABEL: "smollm2"}
    metadata = {"name": "smollm2", "namespace": "default", "labels": labels, "ownerReferences": [CONTROLLED]}
    manifest = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"port": port}}
    return Child(ChildKey.of(manifest), manifest)


async def test_apply_when_nothing_changed_since_then_nothing_written() -> None:
    made, api = world()
    for _ in range(3):
        await made.apply(OWNER, service())
    assert api.writes == [("apply", PATH)]


async def test_apply_when_the_rule_wants_something_else_then_written() -> None:
    made, api = world()
    await made.apply(OWNER, service())
    await made.apply(OWNER, service(81))
    assert len(api.writes) == 2


async def test_apply_when_object_was_changed_then_written_and_forced() -> None:
    made, api = world()
    await made.apply(OWNER, service())
    made.index.put({**api.objects[PATH], "spec": {"port": 9}, "metadata": _newer(api.objects[PATH])})
    await made.apply(OWNER, service())
    assert api.forced == [False, True]


async def test_apply_when_only_status_changed_then_nothing_is_written() -> None:
    made, api = world()
    await made.apply(OWNER, service())
    made.index.put({**api.objects[PATH], "status": {"x": 1}, "metadata": _newer(api.objects[PATH])})
    await made.apply(OWNER, service())
    assert len(api.writes) == 1


async def test_apply_when_the_name_is_of_a_foreign_object_then_refused() -> None:
    made, api = world()
    api.objects[PATH] = {"kind": "Service", "metadata": {"name": "smollm2", "namespace": "default"}}
    api.errors = [ApiError(CONFLICT, "conflict with kubectl")]
    with pytest.raises(ChildRefused, match="has another owner"):
        await made.apply(OWNER, service())
    assert api.writes == []


@pytest.mark.parametrize("status", [FORBIDDEN, INVALID])
async def test_apply_when_refused_then_retried_after_a_while_or_change(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, api = world()
    api.errors = [ApiError(status, "PATCH /api: exceeded quota", server_message="exceeded quota") for _ in range(3)]
    for _ in range(2):
        with pytest.raises(ChildRefused, match=r"^exceeded quota$"):
            await made.apply(OWNER, service())
    assert len(api.errors) == 2
    with pytest.raises(ChildRefused):
        await made.apply(OWNER, service(81))
    assert len(api.errors) == 1
    monkeypatch.setattr(world_module, "REFUSED_SECONDS", 0.0)
    with pytest.raises(ChildRefused):
        await made.apply(OWNER, service())
    await made.apply(OWNER, service())
    assert api.writes == [("apply", PATH)]


async def test_apply_when_refused_again_then_backoff_doubles_to_minute() -> None:
    now, asked = 0.0, []
    made, api = world(lambda: now)
    for _ in range(6):
        api.errors = [ApiError(FORBIDDEN, "PATCH /api: no", server_message="no")]
        with pytest.raises(ChildRefused) as refused:
            await made.apply(OWNER, service())
        asked.append(refused.value.retry_seconds)
        assert refused.value.retry_seconds is not None
        now += refused.value.retry_seconds - 1.0
        with pytest.raises(ChildRefused) as refused:
            await made.apply(OWNER, service())
        assert (refused.value.retry_seconds, api.errors) == (1.0, [])
        now += 1.0
    assert asked == [5, 10, 20, 40, 60, 60]


@pytest.mark.parametrize("status", [401, NOT_FOUND, CONFLICT, TOO_MANY, 500, 503])
async def test_apply_when_a_retryable_error_lasts_then_it_is_a_refusal(status: int) -> None:
    now = 0.0
    made, api = world(lambda: now)
    api.objects[PATH] = {"kind": "Service", "metadata": METADATA}
    made.index.put(
        {**service().manifest, "metadata": {**service().manifest["metadata"], "uid": "s", "resourceVersion": "3"}}
    )
    error = ApiError(status, "PATCH /api: duplicate entries", server_message="duplicate entries")
    for _ in range(2):
        api.errors = [error]
        with pytest.raises(ApiError):
            await made.apply(OWNER, service())
        now += 1.5
    api.errors = [error]
    with pytest.raises(ChildRefused, match=r"^duplicate entries$"):
        await made.apply(OWNER, service())
    now = 8.0
    await made.apply(OWNER, service())
    api.errors = [error]
    with pytest.raises(ApiError):
        await made.apply(OWNER, service(81))


def test_fetcher_when_being_deleted_then_the_next_is_chosen() -> None:
    """All are enqueued."""
    made, _ = world()
    source = {"spec": {"model": {"source": {"uri": "https://example.org/m"}}}}
    second, third = (ResourceKey(v.MODEL_DEPLOYMENT, "default", name) for name in ("smollm3", "smollm4"))
    made.index.put({**resource(2), **source})
    for key in (second, third):
        made.index.put({**resource(3, name=key.name, uid=key.name), **source})
    fetcher = peers_of(made.observe(third)).fetcher
    assert fetcher is not None
    assert fetcher["metadata"]["name"] == OWNER.name
    told: list[ResourceKey | None] = []
    made.subscribe(told.append)
    made.index.put({**resource(4, deletionTimestamp="2026-01-01T00:00:01Z"), **source})
    assert {second, third} <= set(told)
    assert peers_of(made.observe(second)).fetcher is None
    fetcher = peers_of(made.observe(third)).fetcher
    assert fetcher is not None
    assert fetcher["metadata"]["name"] == second.name


@pytest.mark.parametrize("reverted", [True, False])
async def test_apply_when_failed_child_is_unwanted_then_time_dropped(*, reverted: bool) -> None:
    """Another spec, also one that is there already, begins its time anew."""
    now = 0.0
    made, api = world(lambda: now)
    await made.apply(OWNER, service(80))
    failing, passing = service(81), service(80 if reverted else 82)
    for child in (failing, passing, failing):
        api.errors = (
            []
            if reverted and child is passing
            else [ApiError(500, "PATCH /api: try again", server_message="try again")]
        )
        with pytest.raises(ApiError) if api.errors else nullcontext():
            await made.apply(OWNER, child)
        now += 2.0


async def test_apply_when_a_webhook_hangs_then_one_try_is_enough() -> None:
    now = 0.0
    made, api = world(lambda: now)

    async def hang(*_: object, **__: object) -> Manifest:
        nonlocal now
        now += 10.0
        raise ApiError(TIMED_OUT, "PATCH /api: no response in time", server_message="no response in time")

    api.apply = hang  # type: ignore[method-assign]
    with pytest.raises(ChildRefused, match="no response in time"):
        await made.apply(OWNER, service())


async def test_apply_when_no_login_for_namespace_then_refused() -> None:
    made, _ = world()
    provided = Provided()
    provided.error = ApiError(
        FORBIDDEN, "PATCH /api: exceeded quota", server_message='secrets "headrace-nats": exceeded quota'
    )
    made.lead(cast("Namespaces", provided))
    with pytest.raises(ChildRefused, match="headrace-nats"):
        await made.apply(OWNER, service())


async def test_apply_when_api_server_is_down_then_nothing_is_refused() -> None:
    now = 0.0
    made, api = world(lambda: now)
    for _ in range(2):
        api.errors = [ApiError(UNREACHABLE, "connection refused")]
        with pytest.raises(ApiError):
            await made.apply(OWNER, service())
        now += 100.0
    await made.apply(OWNER, service())


async def test_apply_when_our_own_object_lost_its_labels_then_forced() -> None:
    made, api = world()
    api.objects[PATH] = {"kind": "Service", "metadata": METADATA}
    api.errors = [ApiError(CONFLICT, "conflict with kubectl")]
    await made.apply(OWNER, service())
    assert api.forced == [False, True]


async def test_apply_when_our_service_has_fixed_address_then_recreated() -> None:
    made, api = world()
    await made.apply(OWNER, service())
    api.errors = [ApiError(INVALID, "spec.clusterIPs[0]: may not change once set")]
    await made.apply(OWNER, service(81))
    assert api.writes == [("apply", PATH), ("delete", PATH), ("apply", PATH)]


async def test_observe_when_only_labels_are_ours_then_it_is_no_child() -> None:
    made, _ = world()
    stranger = service().manifest
    stranger["metadata"].update(uid="s", resourceVersion="3", ownerReferences=[])
    made.index.put(stranger)
    assert made.observe(OWNER).children == {}


async def test_delete_when_resource_is_gone_then_left_to_collector() -> None:
    made, api = world()
    await made.apply(OWNER, service())
    made.index.put(resource(9, deletionTimestamp="2026-01-01T00:00:01Z"))
    await made.delete(OWNER, service().key)
    assert [verb for verb, _ in api.writes] == ["apply"]


async def test_write_status_when_field_is_gone_then_whole_is_replaced() -> None:
    made, api = world()
    api.objects["/apis/headrace.dev/v1alpha1/namespaces/default/modeldeployments/smollm2"] = resource()
    await made.write_status(OWNER, {"source": {"uri": "a", "digest": "b"}})
    await made.write_status(OWNER, {"source": {"uri": "c"}})
    await made.write_status(OWNER, {"source": {"uri": "c"}})
    assert api.bodies == [{"source": {"uri": "a", "digest": "b"}}, {"source": {"uri": "c"}}]


async def test_set_routable_when_gate_is_set_then_nothing_is_written() -> None:
    made, api = world()
    made.index.put(_pod(1, []))
    await made.set_routable(OWNER, frozenset())
    made.index.put(_pod(2, [{"type": v.ROUTABLE_GATE, "status": "True"}]))
    await made.set_routable(OWNER, frozenset({"pod"}))
    assert api.writes == []


async def test_record_when_it_is_refused_then_no_look_fails() -> None:
    made, api = world()
    api.errors = [ApiError(403, "the namespace is being terminated")]
    await made.record(OWNER, Event("Normal", "Scaled", "0 to 1"))


async def test_record_when_an_event_is_repeated_then_it_is_counted() -> None:
    made, api = world()
    for _ in range(3):
        await made.record(OWNER, Event("Normal", "Scaled", "0 to 1"))
    assert [verb for verb, _ in api.writes] == ["create", "merge", "merge"]
    assert [body["count"] for body in api.bodies] == [1, 2, 3]


async def test_record_when_earlier_process_wrote_it_then_count_goes_on() -> None:
    made, api = world()
    api.errors = [ApiError(CONFLICT, "exists")]

    async def merge(path: str, patch: Manifest) -> Manifest:
        api.bodies.append(patch)
        return {"count": 7}

    api.merge = merge  # type: ignore[method-assign]
    await made.record(OWNER, Event("Normal", "Scaled", "0 to 1"))
    assert api.bodies[-1]["count"] == 8


def _newer(manifest: Manifest) -> Manifest:
    version = int(manifest["metadata"]["resourceVersion"]) + 1
    return {**manifest["metadata"], "resourceVersion": str(version)}


def _pod(version: int, conditions: list[Manifest]) -> Manifest:
    labels = {v.MODEL_LABEL: "smollm2", v.COMPONENT_LABEL: v.COMPONENT_RUNTIME}
    metadata = {
        "name": "pod",
        "namespace": "default",
        "uid": "p",
        "resourceVersion": str(version),
        "labels": labels,
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "j1", "controller": True}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": {"conditions": conditions}}
