"""The children as Kubernetes objects: what both worlds rely on in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from reconcile.reconcile_world import SETTINGS, World, resource, serving_world

from headrace.api import vocabulary as v
from headrace.reconcile.world import Manifest
from headrace.sources.location import location


def child(world: World, kind: str) -> Manifest:
    return next(manifest for key, manifest in world.children.items() if key.kind == kind)


def pod_of(world: World, kind: str = "Deployment") -> Manifest:
    spec: Manifest = child(world, kind)["spec"]["template"]["spec"]
    return spec


def variables(pod: Manifest) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in pod["containers"][0]["env"]}


def test_deployment_when_made_then_one_per_revision_recreated_never_rolled() -> None:
    world = serving_world(replicas=1)
    manifest = child(world, "Deployment")
    (revision,) = world.revisions()
    assert manifest["metadata"]["name"] == f"smol-{revision}"
    assert manifest["spec"]["strategy"] == {"type": "Recreate"}
    assert (
        manifest["spec"]["selector"]["matchLabels"].items()
        <= manifest["spec"]["template"]["metadata"]["labels"].items()
    )
    assert manifest["spec"]["template"]["metadata"]["labels"][v.REVISION_LABEL] == revision


def test_runtime_when_started_then_it_gets_a_path_its_name_and_its_limits() -> None:
    world = serving_world(
        runtime={"type": "LLM", "llm": {"maxModelLen": 4096, "maxConcurrentRequests": 32}},
        rollout={"drainTimeoutSeconds": 45},
    )
    (container,) = pod_of(world)["containers"]
    uri = world.manifest["spec"]["model"]["source"]["uri"]
    assert container["command"] == ["headrace-llm"]
    assert container["args"] == [
        *("serve", f"/models/{location(uri, None)}"),
        *("--served-model-name", "smol"),
        *("--host", "$(HEADRACE_POD_IP)"),
        *("--port", "8000"),
        *("--max-model-len", "4096"),
        *("--max-concurrent-requests", "32"),
    ]
    assert pod_of(world)["terminationGracePeriodSeconds"] == 45


def test_runtime_when_started_then_it_knows_who_it_is_and_whom_to_tell() -> None:
    world = serving_world()
    (revision,) = world.revisions()
    assert variables(pod_of(world)) == {
        "HEADRACE_NAMESPACE": "default",
        "HEADRACE_MODEL_DEPLOYMENT": "smol",
        "HEADRACE_REVISION": revision,
        "HEADRACE_POD_NAME": {"fieldRef": {"fieldPath": "metadata.name"}},
        "HEADRACE_POD_IP": {"fieldRef": {"fieldPath": "status.podIP"}},
        "HEADRACE_NATS_URL": "nats://127.0.0.1:4222",
        "HEADRACE_NATS_USER": {"secretKeyRef": {"name": "headrace-nats", "key": "user"}},
        "HEADRACE_NATS_PASSWORD": {"secretKeyRef": {"name": "headrace-nats", "key": "password"}},
        "HEADRACE_GRACE_SECONDS": "30",
    }


def test_runtime_when_probed_then_on_its_http_port() -> None:
    (container,) = pod_of(serving_world())["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": 8000}]
    assert container["readinessProbe"]["httpGet"] == {"path": "/health/ready", "port": "http"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/health/live", "port": "http"}
    assert pod_of(serving_world())["readinessGates"] == [{"conditionType": v.ROUTABLE_GATE}]


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_pods_when_made_then_they_pass_the_restricted_standard_and_start_fast(kind: str) -> None:
    pod = pod_of(serving_world(), kind)
    security = pod["containers"][0]["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)


def test_models_when_there_is_a_claim_then_mounted_and_only_the_fetch_may_write() -> None:
    world = World(manifest=resource(), settings=replace(SETTINGS, models_claim="models"))
    world.calm()
    for kind, read_only in (("Deployment", True), ("Job", False)):
        pod = pod_of(world, kind)
        assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "models", "readOnly": read_only}
        mount = pod["containers"][0]["volumeMounts"][0]
        assert (mount["mountPath"], mount["readOnly"]) == ("/models", read_only)


def test_models_when_there_is_no_claim_then_nothing_is_mounted() -> None:
    assert "volumes" not in pod_of(serving_world())


def test_template_when_set_then_it_is_laid_over_the_runtime() -> None:
    world = serving_world(
        template={
            "env": [{"name": "OMP_NUM_THREADS", "value": "2"}],
            "resources": {"requests": {"cpu": "2"}, "limits": {"memory": "1Gi"}},
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
        }
    )
    pod = pod_of(world)
    assert variables(pod)["OMP_NUM_THREADS"] == "2"
    assert pod["containers"][0]["resources"] == {"requests": {"cpu": "2"}, "limits": {"memory": "1Gi"}}
    assert pod["nodeSelector"] == {"disk": "ssd"}
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]


def test_service_when_made_then_it_selects_the_runtime_pods_of_every_revision() -> None:
    world = serving_world(replicas=1)
    selector = child(world, "Service")["spec"]["selector"]
    labels = world.pods[world.runtimes()[0]]["metadata"]["labels"]
    assert selector.items() <= labels.items()
    assert v.REVISION_LABEL not in selector
    assert not selector.items() <= world.pods[world.fetch_pod() or ""]["metadata"]["labels"].items()


def test_names_when_the_resources_is_the_longest_allowed_then_children_leave_room_for_their_pods() -> None:
    manifest = resource()
    manifest["metadata"]["name"] = "a" * 40
    world = World(manifest=manifest)
    for made in world.look().children:
        assert len(made.key.name) + len("-0123456789-abcde") <= 40 + 9 + 17 + len("fetch-")
        assert len(made.key.name) <= 63
