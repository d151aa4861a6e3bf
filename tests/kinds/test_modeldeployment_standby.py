"""Standby pods: their pool, the starting replicas that they replace, and the launch of those that do not report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from kinds.reconcile_world import SETTINGS, World, resource

from headrace import environment
from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.manifests.standby import program_of, standby_spec
from headrace.kinds.modeldeployment.pools import Pools
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.reconcile.world import Manifest, ResourceKey

POOLED = replace(SETTINGS, standby_pods=1, platform_namespace="headrace-system", node_agent=True)
ME = ResourceKey(v.MODEL_DEPLOYMENT, "default", "smol")
OTHER = ResourceKey(v.MODEL_DEPLOYMENT, "default", "other")
SPEC: dict[str, Any] = {"scaling": {"maxReplicas": 2, "coldStart": {"keep": "Process"}}}


def waking_world(pool: ResourceKey | None = ME, **spec: Any) -> World:
    """A world whose model has just been woken: its replica has no container yet."""
    world = World(manifest=resource(**{**SPEC, **spec}), settings=POOLED, pool=pool)
    world.calm()
    world.ask(queued=1)
    world.look()
    for name in world.runtimes():
        world.pods[name]["status"]["phase"] = "Pending"
    return world


def pool_of(world: World) -> Manifest | None:
    found = (each for each in world.children.values() if each["metadata"]["labels"].get(v.STANDBY_LABEL))
    return next(found, None)


def adopt(world: World) -> str:
    """Do what Kubernetes does after the standby pod got the labels of the replica; return its name."""
    (starting,) = world.runtimes()
    pod = world.pods.pop(starting)
    labels = {**pod["metadata"]["labels"], v.STANDBY_LABEL: "12345678"}
    world.pods["warm"] = {**pod, "metadata": {**pod["metadata"], "name": "warm", "labels": labels}}
    world.pods["warm"]["status"]["phase"] = "Running"
    return "warm"


def test_pool_when_process_is_kept_then_generic_pods() -> None:
    world = waking_world()
    pool = pool_of(world)
    assert pool is not None
    template = pool["spec"]["template"]
    (container,) = template["spec"]["containers"]
    names = {variable["name"] for variable in container["env"]}
    assert pool["spec"]["replicas"] == 1
    assert template["metadata"]["labels"][v.COMPONENT_LABEL] == v.COMPONENT_STANDBY
    assert container["args"][0] == "standby"
    assert not {environment.MODEL_DEPLOYMENT, environment.REVISION} & names
    assert {environment.NAMESPACE, environment.NATS_USER, environment.AGENT_SOCKET} <= names
    assert world.manifest["status"]["keep"] == "Process"


def test_standby_policy_when_pool_exists_then_no_ingress() -> None:
    policies = {
        each["metadata"]["labels"][v.COMPONENT_LABEL]: each["spec"]
        for key, each in waking_world().children.items()
        if key.kind == "NetworkPolicy"
    }
    assert "ingress" not in policies[v.COMPONENT_STANDBY]
    assert policies[v.COMPONENT_STANDBY]["policyTypes"] == ["Ingress", "Egress"]
    assert [rule["ports"][0]["port"] for rule in policies[v.COMPONENT_STANDBY]["egress"]] == [53, 4222]


@pytest.mark.parametrize("pool", [OTHER, None])
def test_pool_when_another_model_has_it_then_no_child(pool: ResourceKey | None) -> None:
    world = waking_world(pool)
    outcome = world.decide()
    assert pool_of(world) is None
    assert [each.pool for each in outcome.conversions] == ([OTHER] if pool else [])


def test_pool_when_gpu_is_requested_then_weights_are_kept() -> None:
    world = waking_world(template={"resources": {"limits": {"nvidia.com/gpu": "1"}}})
    assert pool_of(world) is None
    assert world.manifest["status"]["keep"] == "Weights"


def test_conversion_when_replica_starts_then_tried_once() -> None:
    world = waking_world()
    (starting,) = world.runtimes()
    (conversion,) = world.look().conversions
    pool = pool_of(world)
    assert pool is not None
    assert (conversion.pod, conversion.pool) == (starting, ME)
    assert conversion.program == pool["metadata"]["labels"][v.STANDBY_LABEL]
    assert conversion.launch.arguments[0] == "serve"
    assert conversion.launch.variables[environment.MODEL_DEPLOYMENT] == "smol"
    assert environment.NATS_PASSWORD not in conversion.launch.variables
    assert world.look().conversions == ()


def test_conversion_when_replica_runs_then_none() -> None:
    world = waking_world()
    for name in world.runtimes():
        world.pods[name]["status"]["phase"] = "Running"
    assert world.look().conversions == ()


def test_launch_when_former_standby_pod_is_silent_then_sent() -> None:
    """Until it reports, and again after its process was restarted."""
    world = waking_world()
    pod = adopt(world)
    outcome = world.look()
    assert outcome.launches.keys() == {pod}
    assert outcome.conversions == ()
    world.serve(pod)
    assert world.look().launches == {}
    del world.reports[pod]
    assert world.look().launches.keys() == {pod}


def test_program_when_models_share_template_then_equal() -> None:
    def program(name: str, **spec: Any) -> str:
        manifest = resource(**{**SPEC, **spec})
        manifest["metadata"]["name"] = name
        return program_of(standby_spec(ModelDeployment.parse(manifest), POOLED))

    one = program("one", model={"name": "first", "source": {"uri": "https://example.org/1.gguf"}})
    assert one == program("two", runtime={"llm": {"maxModelLen": 512}})
    assert one != program("two", template={"env": [{"name": "OMP_NUM_THREADS", "value": "1"}]})
    assert one != program("two", rollout={"drainTimeoutSeconds": 7})


def pooled(name: str, created: str, **spec: Any) -> Manifest:
    manifest = resource(**{**SPEC, **spec})
    manifest["metadata"] |= {"name": name, "creationTimestamp": created}
    return manifest


def key(name: str) -> ResourceKey:
    return ResourceKey(v.MODEL_DEPLOYMENT, "default", name)


def test_pool_when_its_owner_is_deleted_then_next_oldest_has_it() -> None:
    pools, models = Pools(), {name: pooled(name, f"2026-01-0{day}T00:00:00Z") for day, name in enumerate("abc", 1)}
    for name in "cab":
        pools.update(key(name), models[name])
    assert {pools.of(key(name)) for name in models} == {key("a")}
    assert pools.update(key("a"), None) == {key("b"), key("c")}
    assert {pools.of(key(name)) for name in "bc"} == {key("b")}
    assert pools.update(key("b"), models["b"]) == set()


@pytest.mark.parametrize(
    "spec",
    [
        {"scaling": {"coldStart": {"keep": "Weights"}}},
        {"template": {"env": [{"name": "A", "value": "1"}]}},
        {"model": {"source": {"uri": "pvc://mine/model.gguf"}}},
        {"rollout": {"drainTimeoutSeconds": 7}},
    ],
)
def test_pool_when_program_differs_then_not_shared(spec: dict[str, Any]) -> None:
    pools = Pools()
    pools.update(key("a"), pooled("a", "2026-01-01T00:00:00Z"))
    pools.update(key("b"), pooled("b", "2026-01-02T00:00:00Z", **spec))
    assert pools.of(key("b")) != key("a")
