"""`replicas`, `scaling` and `suspend`: how many pods there are, and what requests meet."""

from __future__ import annotations

import pytest
from kinds.reconcile_world import World, resource, route_of, serving_world

from headrace.api import vocabulary as v

SCALED = {"scaling": {"maxReplicas": 4}}


def reasons(world: World) -> list[str]:
    return [event.reason for event in world.events]


def test_replicas_when_model_is_cached_then_as_many_pods_as_set() -> None:
    world = serving_world(replicas=3)
    assert list(world.revisions().values()) == [3]
    assert world.manifest["status"]["readyReplicas"] == 3
    assert world.says(v.READY) == ("True", v.RUNNING)
    assert world.says(v.SCALING_ACTIVE) == ("False", v.DISABLED)


def test_replicas_when_changed_then_same_revision_is_rescaled() -> None:
    world = serving_world(replicas=1)
    before = world.revisions()
    world.apply(replicas=2)
    world.calm()
    assert world.revisions().keys() == before.keys()
    assert list(world.revisions().values()) == [2]


def test_replicas_when_zero_then_off_and_refused() -> None:
    world = serving_world(replicas=0)
    assert list(world.revisions().values()) == [0]
    assert world.refused() == v.SCALED_TO_ZERO
    assert world.says(v.READY) == ("False", v.SCALED_TO_ZERO)
    assert world.look().requeue_seconds is None


def test_replicas_when_zero_and_somebody_asks_then_not_woken() -> None:
    world = serving_world(replicas=0)
    world.ask(queued=3)
    world.calm()
    assert list(world.revisions().values()) == [0]


@pytest.mark.parametrize("spec", [{"replicas": 2}, SCALED])
def test_suspend_when_set_then_zero_and_refused_with_any_scaling(spec: dict[str, object]) -> None:
    world = serving_world(**spec)
    world.ask(queued=2)
    world.apply(suspend=True)
    world.calm()
    assert list(world.revisions().values()) == [0]
    assert world.refused() == v.SUSPENDED
    assert world.says(v.READY) == ("False", v.SUSPENDED)


def test_suspend_when_taken_back_then_it_serves_again() -> None:
    world = serving_world(replicas=1, suspend=True)
    world.apply(suspend=False)
    world.calm()
    assert world.says(v.READY) == ("True", v.RUNNING)
    assert world.refused() is None


def test_scaling_when_no_request_came_yet_then_idle_and_ready() -> None:
    world = serving_world(**SCALED)
    assert list(world.revisions().values()) == [0]
    assert world.says(v.READY) == ("True", v.IDLE)
    assert world.says(v.WORKLOADS_READY) == ("False", v.IDLE)
    assert world.refused() is None
    assert world.look().requeue_seconds is None


def test_wake_when_request_is_held_then_deployment_first_child() -> None:
    """It has one replica."""
    world = serving_world(**SCALED)
    world.ask(queued=1, waited=3)
    outcome = world.look()
    assert outcome.children[0].key.kind == "Deployment"
    assert outcome.children[0].manifest["spec"]["replicas"] == 1
    assert reasons(world) == [v.SCALED]
    assert "from 0 to 1" in world.events[0].message


def test_wake_when_pod_loads_then_requests_are_held_with_stage() -> None:
    world = serving_world(**SCALED)
    world.ask(queued=1)
    world.look()
    (pod,) = world.runtimes()
    world.load(pod, percent=41)
    outcome = world.look()
    assert (route_of(outcome).stage, route_of(outcome).unavailable) == ("starting", None)
    assert world.says(v.READY) == ("False", v.STARTING)
    assert "loading-weights" in world.condition(v.WORKLOADS_READY)["message"]


def test_wake_when_it_ended_then_last_cold_start_has_its_stages() -> None:
    world = serving_world(**SCALED)
    world.ask(queued=1, waited=12.4)
    world.look()
    (pod,) = world.runtimes()
    world.now += 0.5
    world.load(pod)
    world.look()
    world.now += 1.25
    world.serve(pod)
    world.look()
    cold_start = world.manifest["status"]["lastColdStart"]
    assert cold_start["queuedMilliseconds"] == 12
    assert cold_start["podMilliseconds"] == 500
    assert cold_start["readyMilliseconds"] == 1750
    world.restart_loop()
    world.look()
    assert world.manifest["status"]["lastColdStart"] == cold_start


def test_wake_when_deployment_shows_late_then_time_counts() -> None:
    world = serving_world(**SCALED)
    world.ask(queued=1)
    for _ in range(3):
        world.memory = world.decide().memory
        world.now += 1
    world.look()
    world.serve(world.runtimes()[0])
    world.look()
    assert world.manifest["status"]["lastColdStart"]["readyMilliseconds"] == 3000


def test_ready_when_a_gateway_has_not_admitted_pod_then_it_waits() -> None:
    world = serving_world(replicas=1)
    world.gateways = frozenset({"gw-1", "gw-2"})
    world.look()
    assert world.says(v.ROUTABLE) == ("False", v.WAITING_FOR_GATEWAYS)
    assert world.says(v.READY) == ("False", v.WAITING_FOR_GATEWAYS)
    world.calm()
    assert world.says(v.READY) == ("True", v.RUNNING)
    assert world.outcome is not None
    assert world.outcome.routable_pods == frozenset(world.runtimes())


def test_idle_when_the_timeout_has_passed_then_zero_and_ready() -> None:
    world = serving_world(scaling={"idleTimeoutSeconds": 30})
    world.ask(queued=1)
    world.calm()
    world.ask()
    world.pass_time(29)
    assert list(world.revisions().values()) == [1]
    world.pass_time(2)
    assert list(world.revisions().values()) == [0]
    assert world.says(v.READY) == ("True", v.IDLE)
    assert [event.message for event in world.events if event.reason == v.SCALED] == [
        "from 0 to 1 replica: a request is waiting",
        "from 1 to 0 replicas: idle for 30 s",
    ]


def test_requeue_when_idle_at_one_replica_then_by_idle_deadline() -> None:
    world = serving_world(scaling={"idleTimeoutSeconds": 63})
    world.ask(queued=1)
    world.calm()
    world.ask()
    world.pass_time(60)
    assert world.look().requeue_seconds == pytest.approx(2, abs=1.1)


def test_at_zero_when_no_gateway_is_live_then_not_ready() -> None:
    """Nothing could wake the model."""
    world = serving_world(**SCALED)
    world.gateways = frozenset()
    world.look()
    assert world.says(v.READY) == ("False", v.NO_GATEWAY)
    assert world.says(v.SCALING_ACTIVE) == ("False", v.SIGNALS_STALE)


def test_stale_signals_when_nats_is_away_then_nothing_shrinks() -> None:
    world = serving_world(scaling={"idleTimeoutSeconds": 5})
    world.ask(queued=1)
    world.calm()
    world.connected, world.demand = False, {}
    world.pass_time(120)
    assert list(world.revisions().values()) == [1]
    assert world.says(v.SCALING_ACTIVE) == ("False", v.SIGNALS_STALE)
    assert world.says(v.READY) == ("True", v.RUNNING)


def test_restart_when_nats_and_gateways_unknown_then_not_ready() -> None:
    """Ready is not claimed, and no readiness gate is taken back."""
    world = serving_world(scaling={"minReplicas": 1, "maxReplicas": 2})
    pods = frozenset(world.runtimes())
    world.restart_loop()
    world.connected, world.gateways, world.reports, world.admissions = False, frozenset(), {}, {}
    assert world.look().routable_pods == pods
    assert world.says(v.ROUTABLE) == ("Unknown", v.SIGNALS_STALE)
    assert world.says(v.READY) == ("Unknown", v.SIGNALS_STALE)


def test_maximum_when_demand_asks_for_more_then_scaling_says_so() -> None:
    world = serving_world(**SCALED)
    world.ask(queued=1000)
    world.look()
    assert list(world.revisions().values()) == [4]
    assert world.says(v.SCALING_ACTIVE) == ("True", v.AT_MAXIMUM)


def test_restart_when_replicas_run_then_none_loses_its_gate() -> None:
    world = serving_world(scaling={"maxReplicas": 4, "idleTimeoutSeconds": 600})
    world.ask(queued=32)
    world.calm()
    pods = frozenset(world.runtimes())
    assert len(pods) == 4
    world.restart_loop()
    assert world.look().routable_pods == pods
    world.pass_time(4)
    assert list(world.revisions().values()) == [4]
    assert world.says(v.READY) == ("True", v.RUNNING)


def test_restart_when_pod_stays_silent_then_given_up_at_deadline() -> None:
    """It serves no longer meanwhile."""
    world = serving_world(replicas=1)
    world.restart_loop()
    world.pass_time(6)
    assert world.says(v.ROUTABLE) == ("False", v.NO_REPLICAS)
    assert "it does not register itself" in world.condition(v.WORKLOADS_READY)["message"]
    world.pass_time(601)
    assert world.says(v.READY) == ("False", v.STARTUP_DEADLINE_EXCEEDED)
    assert "it does not register itself" in world.condition(v.READY)["message"]


def test_orphaned_children_when_adopted_then_idle_timeout_runs() -> None:
    """`kubectl delete --cascade=orphan`, and apply."""
    world = serving_world(scaling={"maxReplicas": 4, "idleTimeoutSeconds": 100})
    world.ask(queued=16)
    world.calm()
    world.ask()
    pods = world.runtimes()
    assert len(pods) == 2
    world.orphan_and_apply_again()
    world.look()
    assert world.runtimes() == pods
    world.pass_time(50)
    assert world.runtimes() == pods
    assert world.says(v.READY) == ("True", v.RUNNING)
    world.pass_time(60)
    assert world.runtimes() == []


def test_orphaned_children_when_of_another_revision_then_zero() -> None:
    world = serving_world(scaling={"idleTimeoutSeconds": 100})
    world.ask(queued=1)
    world.calm()
    world.ask()
    world.apply(template={"env": [{"name": "A", "value": "B"}]})
    world.orphan_and_apply_again()
    assert [c.manifest["spec"]["replicas"] for c in world.decide().children if c.key.kind == "Deployment"] == [0]


def test_spec_replicas_when_changed_while_scaling_then_warns() -> None:
    """Even over a restart."""
    world = serving_world(**SCALED)
    world.restart_loop()
    world.apply(replicas=3)
    world.look()
    world.look()
    assert reasons(world).count(v.SCALE_IGNORED) == 1
    warning = next(event for event in world.events if event.reason == v.SCALE_IGNORED)
    assert (warning.type, list(world.revisions().values())) == ("Warning", [0])


def test_spec_replicas_when_manifest_has_none_then_no_warning() -> None:
    """Such a manifest, applied again after a scale, resets the field to its default."""
    world = serving_world(**SCALED, replicas=2)
    world.apply(replicas=None)
    world.look()
    assert v.SCALE_IGNORED not in reasons(world)


def test_status_when_it_serves_then_has_scale_and_client_fields() -> None:
    status = serving_world(replicas=2).manifest["status"]
    assert (status["replicas"], status["readyReplicas"]) == (2, 2)
    assert status["selector"] == "headrace.dev/model-deployment=smol,headrace.dev/component=runtime"
    assert status["url"] == "http://127.0.0.1:8080/v1"
    (revision,) = status["revisions"]
    assert (revision["weightPercent"], revision["replicas"], revision["readyReplicas"]) == (100, 2, 2)


def test_route_when_cold_start_bounds_are_set_then_it_has_them() -> None:
    cold_start = {"queueTimeoutSeconds": 12, "maxQueuedRequests": 7}
    outcome = serving_world(scaling={"coldStart": cold_start}).outcome
    assert outcome is not None
    assert (route_of(outcome).queue_timeout_seconds, route_of(outcome).max_queued_requests) == (12, 7)
    assert route_of(outcome).created == 1767225600


def test_conditions_when_first_seen_then_unobserved_is_unknown() -> None:
    world = World(manifest=resource(replicas=1))
    world.look()
    assert world.says(v.MODEL_CACHED) == ("Unknown", v.PENDING)
    assert world.says(v.READY) == ("Unknown", v.PENDING)


def test_last_transition_when_status_stays_then_its_time_stays() -> None:
    world = serving_world(replicas=1)
    before = world.condition(v.READY)["lastTransitionTime"]
    world.apply(replicas=1, rollout={"startupDeadlineSeconds": 60})
    world.pass_time(5)
    assert world.condition(v.READY)["lastTransitionTime"] == before
    assert world.condition(v.READY)["observedGeneration"] == 2
