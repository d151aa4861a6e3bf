"""`scaling.coldStart.keep`: the volume of the node agent, what is said of it, and the stages of a cold start."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from kinds.reconcile_world import SETTINGS, World, resource, serving_world

from headrace.api.vocabulary import NODE_DRIVER
from headrace.environment import AGENT_SOCKET, KEEP
from headrace.events.messages import MAX_STAGES, ReplicaReport, ReplicaState
from headrace.kinds.modeldeployment.deployments import deployments
from headrace.kinds.modeldeployment.kept_on import MAX_NODES

WITH_AGENT = replace(SETTINGS, node_agent=True)


def spec(keep: str) -> dict[str, Any]:
    return {"scaling": {"maxReplicas": 2, "coldStart": {"keep": keep}}}


def keeping_world(keep: str, *, agent: bool = True) -> World:
    """A world at zero whose model keeps this."""
    world = World(manifest=resource(**spec(keep)), settings=WITH_AGENT if agent else SETTINGS)
    world.calm()
    return world


def pod_of(world: World) -> dict[str, Any]:
    """Return the pod spec of the only revision."""
    (deployment,) = deployments(world.observed()).values()
    template: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return template


def test_weights_when_kept_then_pod_reaches_the_agent() -> None:
    world = keeping_world("Weights")
    pod = pod_of(world)
    assert [volume["csi"]["driver"] for volume in pod["volumes"]] == [NODE_DRIVER]
    assert AGENT_SOCKET in {variable["name"] for variable in pod["containers"][0]["env"]}
    assert world.manifest["status"]["keep"] == "Weights"


@pytest.mark.parametrize(("keep", "agent", "said"), [("Weights", False, "Nothing"), ("Nothing", True, None)])
def test_weights_when_not_kept_then_pod_has_no_volume(keep: str, said: str | None, *, agent: bool) -> None:
    """The pod, and so the revision, is that of a model without the field: an upgrade restarts nothing."""
    world = keeping_world(keep, agent=agent)
    assert pod_of(world) == pod_of(serving_world(scaling={"maxReplicas": 2}))
    assert world.manifest["status"].get("keep") == said


def test_process_when_kept_then_pod_is_marked() -> None:
    """The world that keeps warm processes recognises the pods for them; they reach the node agent, too."""
    world = World(manifest=resource(**spec("Process")), settings=replace(WITH_AGENT, warm_processes=True))
    world.calm()
    (container,) = pod_of(world)["containers"]
    assert {"name": KEEP, "value": "Process"} in container["env"]
    assert world.manifest["status"]["keep"] == "Process"
    assert pod_of(world)["volumes"]


def test_process_when_world_has_none_then_weights_are_kept() -> None:
    world = keeping_world("Process")
    assert pod_of(world) == pod_of(keeping_world("Weights"))
    assert world.manifest["status"]["keep"] == "Weights"


def test_wake_when_stages_reported_then_in_last_cold_start() -> None:
    world = keeping_world("Weights")
    world.ask(queued=1)
    world.look()
    (pod,) = world.runtimes()
    world.serve(pod)
    stages = {"reading-model": 12, "mapping-weights": 3}
    world.reports[pod] = world.reports[pod].model_copy(update={"stages": stages})
    world.look()
    assert world.manifest["status"]["lastColdStart"]["stages"] == [
        {"name": "reading-model", "milliseconds": 12},
        {"name": "mapping-weights", "milliseconds": 3},
    ]


def test_wake_when_first_token_comes_later_then_stage_is_added() -> None:
    """Those of a process that was started again do not replace them."""
    world = keeping_world("Weights")
    world.ask(queued=1)
    world.look()
    (pod,) = world.runtimes()
    world.serve(pod)
    ended = {"starting": 5, "first-token": 9}
    for reported, expected in (
        ({"starting": 5}, {"starting": 5}),
        (ended, ended),
        ({"starting": 7, "first-token": 1}, ended),
    ):
        world.reports[pod] = world.reports[pod].model_copy(update={"stages": reported})
        world.look()
        found = world.manifest["status"]["lastColdStart"]["stages"]
        assert {each["name"]: each["milliseconds"] for each in found} == expected


@pytest.mark.parametrize("stages", [{"x" * 65: 1}, {"a": -1}, {f"s{i}": 1 for i in range(MAX_STAGES + 1)}])
def test_report_when_stages_exceed_bounds_then_refused(stages: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="stages"):
        ReplicaReport(
            pod="p", revision="r", host="h", port=1, started=0, sequence=0, state=ReplicaState.READY, stages=stages
        )


IN_CLUSTER = replace(WITH_AGENT, platform_namespace="headrace-system")
OBJECTS = ("aa" * 32, "bb" * 32)


def served_on(world: World, node: str, name: str) -> str:
    """Wake the model, let its replica on this node map an object, and return the replica."""
    world.ask(queued=1)
    world.look()
    (pod,) = world.runtimes()
    world.pods[pod]["spec"] = {"nodeName": node}
    world.serve(pod)
    world.reports[pod] = world.reports[pod].model_copy(update={"kept_weights": name})
    world.look()
    return pod


def scale_to_zero(world: World) -> None:
    world.ask()
    world.pass_time(400)
    assert not world.runtimes()


def preferred(world: World) -> list[str]:
    """Return the nodes that the pods of the only revision prefer."""
    terms = pod_of(world).get("affinity", {}).get("nodeAffinity", {})
    return [
        term["preference"]["matchFields"][0]["values"][0]
        for term in terms.get("preferredDuringSchedulingIgnoredDuringExecution", [])
    ]


def cluster_world(**more: Any) -> World:
    world = World(manifest=resource(**{**spec("Weights"), **more}), settings=IN_CLUSTER)
    world.calm()
    return world


def test_weights_when_a_node_has_them_then_it_is_preferred() -> None:
    """The template is another one only without replicas: a Deployment would replace them. The revision is the same."""
    world = cluster_world()
    before = world.revisions().keys()
    served_on(world, "node-1", OBJECTS[0])
    assert preferred(world) == []
    assert world.manifest["status"]["keptOn"] == [{"node": "node-1", "object": OBJECTS[0]}]
    scale_to_zero(world)
    assert preferred(world) == ["node-1"]
    served_on(world, "node-2", OBJECTS[1])
    assert preferred(world) == ["node-1"]
    scale_to_zero(world)
    world.restart_loop()
    outcome = world.pass_time(10)
    assert preferred(world) == ["node-1", "node-2"]
    assert outcome.kept_objects == set(OBJECTS)
    assert world.revisions().keys() == before


@pytest.mark.parametrize(
    "change",
    [{"model": {"source": {"uri": "https://example.org/other.gguf"}}}, {"scaling": {"coldStart": {"keep": "Nothing"}}}],
)
def test_weights_when_not_the_models_any_more_then_forgotten(change: dict[str, Any]) -> None:
    world = cluster_world()
    served_on(world, "node-1", OBJECTS[0])
    scale_to_zero(world)
    world.apply(**change)
    outcome = world.calm()
    assert "keptOn" not in world.manifest["status"]
    assert outcome.kept_objects == frozenset()
    assert preferred(world) == []


def test_weights_when_on_many_nodes_then_newest_are_recorded() -> None:
    world = cluster_world()
    for number in range(MAX_NODES + 2):
        served_on(world, f"node-{number}", OBJECTS[0])
        scale_to_zero(world)
    assert [each["node"] for each in world.manifest["status"]["keptOn"]] == preferred(world)
    assert preferred(world) == [f"node-{number}" for number in range(2, MAX_NODES + 2)]
