"""Custom containers (`runtime.type: Container`): their pods, and their entries in the route."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from kinds.reconcile_world import SETTINGS, SOURCE, World, resource, route_of, serving_world
from kinds.test_modeldeployment_manifests import CLUSTER, child, pod_of, policy, ports, variables

from headrace import environment
from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.rules import RESERVED_VARIABLES
from headrace.routes.operations import TEXT
from headrace.sources.location import location

ENGINE = {"image": "ghcr.io/ggml-org/llama.cpp:server", "args": ["-m", "$(HEADRACE_MODEL_PATH)"], "port": 9000}


def spec(**engine: Any) -> dict[str, Any]:
    return {"replicas": 1, "runtime": {"type": "Container", "container": ENGINE | engine}}


def custom(**engine: Any) -> World:
    return serving_world(**spec(**engine))


def in_cluster(**more: Any) -> World:
    world = World(manifest=resource(**(spec() | more)), settings=CLUSTER)
    world.calm()
    return world


def engines(world: World) -> dict[str, tuple[str, str | None]]:
    return {each.revision: (each.readiness_path, each.model_name) for each in route_of(world.outcome).engines}


@pytest.mark.parametrize(
    ("fields", "named"), [({"replicas": 1}, TEXT), (spec(), ("chat", "completions"))], ids=["LLM", "Container"]
)
def test_route_when_revision_serves_then_its_operations_named(fields: dict[str, Any], named: tuple[str, ...]) -> None:
    route = route_of(serving_world(**fields).outcome)
    assert [each.operations for each in route.revisions] == [named]


def test_container_when_it_runs_then_as_specified_plus_identity() -> None:
    """It gets its model, its name and its address."""
    pod = pod_of(custom(command=["/llama-server"]))
    (container,) = pod["containers"]
    assert (container["image"], container["command"]) == (ENGINE["image"], ["/llama-server"])
    assert container["args"] == ["-m", "$(HEADRACE_MODEL_PATH)"]
    assert variables(pod) == {
        "HEADRACE_POD_IP": {"fieldRef": {"fieldPath": "status.podIP"}},
        "HEADRACE_MODEL_NAME": "smol",
        "HEADRACE_MODEL_PATH": f"/models/{location(SOURCE, None)}",
    }
    assert container["ports"] == [{"name": "http", "containerPort": 9000}]
    assert container["readinessProbe"]["httpGet"] == {"path": "/v1/models", "port": "http"}
    assert "livenessProbe" not in container
    assert pod["readinessGates"] == [{"conditionType": v.ROUTABLE_GATE}]


def test_container_when_command_and_args_unset_then_images_own() -> None:
    world = serving_world(replicas=1, runtime={"type": "Container", "container": {"image": "x"}})
    assert not {"command", "args"} & pod_of(world)["containers"][0].keys()


def test_container_when_in_cluster_then_unprivileged_writable() -> None:
    """It may write its own files."""
    pod = pod_of(in_cluster())
    security = pod["containers"][0]["securityContext"]
    assert "readOnlyRootFilesystem" not in security
    assert (security["runAsNonRoot"], security["allowPrivilegeEscalation"]) == (True, False)
    assert pod["securityContext"]["runAsUser"] == 65532
    assert variables(pod)["HOME"] == "/tmp"
    assert [volume["name"] for volume in pod["volumes"]] == ["models"]


def test_container_when_its_template_names_a_home_then_that_one() -> None:
    pod = pod_of(in_cluster(template={"env": [{"name": "HOME", "value": "/data"}]}))
    assert variables(pod)["HOME"] == "/data"


def test_container_when_custom_then_its_pod_cannot_reach_nats() -> None:
    world = in_cluster()
    (names,) = policy(world, "runtime")["egress"]
    assert ports(names) == {("UDP", 53), ("TCP", 53)}
    (rule,) = policy(world, "runtime")["ingress"]
    assert ports(rule) == {("TCP", 9000)}
    assert not {name for name in variables(pod_of(world)) if "NATS" in name}


def test_container_when_it_has_its_model_then_nothing_mounted() -> None:
    """Nothing is fetched, and it may download its model."""
    world = in_cluster(model={"name": "custom"})
    assert not {key.kind for key in world.children} & {"Job"}
    assert "volumes" not in pod_of(world)
    assert "HEADRACE_MODEL_PATH" not in variables(pod_of(world))
    assert world.says(v.MODEL_CACHED) == ("True", v.NO_SOURCE)
    assert world.says(v.READY) == ("True", v.RUNNING)
    _, web = policy(world, "runtime")["egress"]
    assert ("TCP", 443) in ports(web)


def test_container_when_self_registering_then_it_may_reach_nats() -> None:
    """It gets its identity."""
    world, ours = in_cluster(**spec(announces=True)), World(manifest=resource(replicas=1), settings=CLUSTER)
    ours.calm()
    (revision,) = world.revisions()
    also = {"HEADRACE_MODEL_NAME", "HEADRACE_MODEL_PATH", "HOME"}
    told = {name: value for name, value in variables(pod_of(world)).items() if name not in also}
    assert told == {**variables(pod_of(ours)), "HEADRACE_REVISION": revision}
    assert reaches_nats(world)


def test_policy_when_self_registering_then_nats_until_last_ends() -> None:
    world = in_cluster(**spec(announces=True))
    assert reaches_nats(world)
    world.apply(**spec(announces=False))
    world.look()
    assert len(world.revisions()) == 2
    assert reaches_nats(world)
    world.lingers = True
    world.calm()
    assert len(world.revisions()) == 1
    assert reaches_nats(world), "the old one still drains"
    world.depart()
    world.look()
    assert not reaches_nats(world)


def test_policy_when_old_revision_registers_then_its_record_says() -> None:
    """Whatever the runtime type, and without the label that a custom container's pods have."""
    world = in_cluster(**spec(announces=True))
    world.apply(**spec(announces=False))
    world.look()
    assert len(world.revisions()) == 2
    for labelled in (*world.children.values(), *world.pods.values()):
        labelled["metadata"]["labels"].pop(v.ANNOUNCES_LABEL, None)
    world.look()
    assert reaches_nats(world)


def reaches_nats(world: World) -> bool:
    return any(("TCP", 4222) in ports(rule) for rule in policy(world, "runtime")["egress"])


def test_route_when_reporters_differ_by_revision_then_has_each() -> None:
    world = custom()
    (old,) = world.revisions()
    world.apply(**spec(announces=True))
    world.look()
    world.look()
    (new,) = world.revisions().keys() - {old}
    assert {each.revision: each.announces for each in route_of(world.outcome).engines} == {old: False, new: True}


@pytest.mark.parametrize(("model_name", "told"), [(None, None), ("org/model-8b", "org/model-8b")])
def test_route_when_a_custom_container_then_has_its_protocol(model_name: str | None, told: str | None) -> None:
    named = {} if model_name is None else {"modelName": model_name}
    world = custom(readinessPath="/health", **named)
    (revision,) = world.revisions()
    assert engines(world) == {revision: ("/health", told)}


def test_route_when_engine_changes_then_each_keeps_its_protocol() -> None:
    """Also while the spec is refused."""
    world = custom(readinessPath="/health", modelName="old")
    (old,) = world.revisions()
    world.apply(**spec(readinessPath="/ready", modelName="new", image="next"))
    world.look()
    world.look()
    (new,) = world.revisions().keys() - {old}
    both = {old: ("/health", "old"), new: ("/ready", "new")}
    assert engines(world) == both
    world.apply(replicas=-1)
    world.look()
    assert engines(world) == both


def test_route_when_the_runtime_is_ours_then_no_engine_is_named() -> None:
    assert engines(serving_world(replicas=1)) == {}


def test_revision_when_only_gateway_limits_change_then_stays() -> None:
    world = custom()
    before = world.revisions()
    world.apply(**spec(maxConcurrentRequests=3))
    world.look()
    assert world.revisions() == before


def test_model_name_when_it_alone_changes_then_nothing_restarts() -> None:
    world = custom(modelName="old")
    (revision,) = world.revisions()
    world.apply(**spec(modelName="new"))
    world.look()
    world.look()
    assert engines(world) == {revision: ("/v1/models", "new")}


@pytest.mark.parametrize(
    ("runtime", "capabilities"),
    [
        (None, [v.DRAIN, v.LOAD_REPORTS, v.PROGRESS]),
        (spec()["runtime"], []),
        (spec(announces=True)["runtime"], [v.DRAIN, v.LOAD_REPORTS, v.PROGRESS]),
    ],
)
def test_capabilities_when_asked_for_then_the_status_names_them(
    runtime: dict[str, Any] | None, capabilities: list[str]
) -> None:
    world = serving_world(**({"runtime": runtime} if runtime else {}))
    assert world.manifest["status"]["capabilities"] == capabilities


@pytest.mark.parametrize(("command", "reason"), [([], v.INVALID_SPEC), (["engine"], v.VALID)])
def test_container_when_no_images_run_here_then_it_needs_command(command: list[str], reason: str) -> None:
    settings = replace(SETTINGS, runs_images=False)
    world = World(manifest=resource(**spec(command=command)), settings=settings)
    world.look()
    assert world.condition(v.ACCEPTED)["reason"] == reason


def test_service_when_container_has_another_port_then_by_name() -> None:
    assert child(custom(), "Service")["spec"]["ports"] == [{"name": "http", "port": 9000, "targetPort": "http"}]


def test_reserved_variables_when_pods_are_made_then_all_are_set() -> None:
    """No more: a name that is reserved later makes stored resources invalid that use it."""
    settings = replace(SETTINGS, max_body_bytes=1, node_agent=True, warm_processes=True)  # only another limit is set
    scaling = {"minReplicas": 1, "coldStart": {"keep": "Process"}}
    ours = World(manifest=resource(scaling=scaling), settings=settings)
    ours.calm()
    pods = [pod_of(ours), pod_of(ours, "Job"), pod_of(custom(announces=True))]
    made = {name for pod in pods for name in variables(pod) if name.startswith("HEADRACE_")}
    assert made | {environment.TERMINATION_MESSAGE_PATH} == set(RESERVED_VARIABLES)
