"""Children and pods that the cluster refuses: the same cause in the conditions, in the events and in requests."""

from __future__ import annotations

import pytest
from kinds.reconcile_world import World, replica_failure, resource, route_of, serving_world, woken

from headrace.api import vocabulary as v
from headrace.reconcile.world import ChildKey


def refusing(world: World, kind: str) -> ChildKey:
    """Have the cluster refuse the first child of a kind that the rule wants now."""
    key = next(child.key for child in world.decide().children if child.key.kind == kind)
    world.not_taken[key] = "spec.template: must be less than or equal to memory limit"
    return key


@pytest.mark.parametrize("spec", [{"replicas": 1}, {"scaling": {"maxReplicas": 1}}])
def test_deployment_when_refused_then_every_condition_has_error(spec: dict[str, object]) -> None:
    world = World(manifest=resource(**spec))
    key = refusing(world, "Deployment")
    world.look()
    world.fetch()
    world.look()
    for condition in (v.READY, v.WORKLOADS_READY):
        assert world.says(condition) == ("False", v.REFUSED)
        assert f"{key.name}: spec.template: must be less" in world.condition(condition)["message"]
    assert world.refused() == v.REFUSED
    assert [event.type for event in world.events if event.reason == v.REFUSED] == ["Warning"]
    world.not_taken.clear()
    world.calm()
    assert world.says(v.READY)[0] == "True"
    assert world.refused() is None


@pytest.mark.parametrize(
    "rollout",
    [
        {},
        {"type": "Recreate"},
        {"rollingUpdate": {"surge": "Never"}},
        {"type": "Canary", "canary": {"percent": 50}},
    ],
)
def test_deployment_when_refused_in_rollout_then_stable_serves(
    rollout: dict[str, object],
) -> None:
    world = serving_world(replicas=1, rollout=rollout)
    (old,) = world.revisions()
    world.apply(template={"env": [{"name": "A", "value": "B"}]}, replicas=2)
    refusing(world, "Deployment")
    world.look()
    assert world.revisions() in ({old: 1}, {old: 2})
    world.calm()
    assert world.revisions() == {old: 2}
    assert len(world.runtimes(old)) == 2
    assert world.says(v.READY) == ("False", v.REFUSED)
    assert world.refused() is None


def test_deployment_when_refused_at_zero_then_wake_starts_stable() -> None:
    world = serving_world(scaling={"maxReplicas": 1})
    (old,) = world.revisions()
    world.apply(template={"env": [{"name": "A", "value": "B"}]})
    refusing(world, "Deployment")
    world.look()
    assert world.says(v.READY) == ("False", v.REFUSED)
    world.ask(queued=1)
    world.calm()
    assert world.revisions() == {old: 1}
    assert world.refused() is None
    assert world.weights() == {old: 100}


def test_deployment_when_scaling_refused_then_present_pods_stay() -> None:
    world = serving_world(replicas=1)
    world.apply(replicas=3)
    refusing(world, "Deployment")
    world.calm()
    assert len(world.runtimes()) == 1
    assert world.says(v.READY) == ("False", v.REFUSED)
    assert world.refused() is None


@pytest.mark.parametrize("spec", [{"replicas": 1}, {"scaling": {"maxReplicas": 1}}])
def test_service_when_refused_then_reported_and_model_serves(spec: dict[str, object]) -> None:
    world = serving_world(**spec)
    refusing(world, "Service")
    world.look()
    world.look()
    assert world.says(v.READY) == ("False", v.REFUSED)
    assert world.refused() is None
    world.ask(queued=1)
    world.calm()
    assert len(world.runtimes()) == 1


def test_job_when_refused_then_the_source_is_unavailable() -> None:
    world = World(manifest=resource(replicas=1))
    refusing(world, "Job")
    world.look()
    world.look()
    assert world.says(v.MODEL_CACHED) == ("False", v.REFUSED)
    assert world.says(v.READY) == ("False", v.REFUSED)


QUOTA = 'pods "x" is forbidden: exceeded quota: small, requested: {}, used: requests.memory=6Gi, limited: {}'


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (QUOTA.format("requests.memory=8Gi", "requests.memory=10Gi"), v.UNSCHEDULABLE),
        (QUOTA.format("cpu=300m,requests.memory=8Gi", "cpu=1,requests.memory=8589934592"), v.UNSCHEDULABLE),
        ("exceeded quota: in words of tomorrow", v.UNSCHEDULABLE),
        (QUOTA.format("cpu=300m,requests.memory=80Gi", "cpu=1,requests.memory=10Gi"), v.REFUSED),
        (QUOTA.format("cpu=1500m", "cpu=1"), v.REFUSED),
        ("violates PodSecurity", v.REFUSED),
    ],
    ids=["full", "full, in other units", "full, it seems", "smaller than a pod", "less than a pod", "a policy"],
)
def test_pods_when_refused_then_requests_wait_only_for_room(message: str, reason: str) -> None:
    world, pod = woken()
    deployment = next(child for key, child in world.children.items() if key.kind == "Deployment")
    world.pods.pop(pod)
    deployment["status"] = {"conditions": [replica_failure(world, message)]}
    world.now += 11
    assert world.decide().status["conditions"][0]["reason"] == reason
    assert message in world.decide().status["conditions"][0]["message"]
    route = route_of(world.decide())
    held = reason == v.UNSCHEDULABLE
    assert (route.unavailable is None, route.stage == "unschedulable") == (held, held)
    deployment["status"] = {"conditions": []}
    assert world.decide().status["conditions"][0]["reason"] == v.STARTING


def test_pods_when_refused_for_a_moment_then_requests_wait() -> None:
    world, pod = woken()
    deployment = next(child for key, child in world.children.items() if key.kind == "Deployment")
    world.pods.pop(pod)
    deployment["status"] = {"conditions": [replica_failure(world, "failed calling webhook: connection refused")]}
    route = route_of(world.decide())
    assert route.unavailable is None
    deployment["status"]["conditions"][0]["reason"] = "FailedDelete"
    assert world.decide().status["conditions"][0]["reason"] == v.STARTING
