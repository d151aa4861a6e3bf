"""The children as Kubernetes objects: what both worlds rely on in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from kinds.reconcile_world import SETTINGS, World, resource, serving_world

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.kinds.modeldeployment.revision import revision_of
from headrace.reconcile.images import default_images
from headrace.reconcile.world import Manifest
from headrace.sources.location import location


def child(world: World, kind: str) -> Manifest:
    return next(manifest for key, manifest in world.children.items() if key.kind == kind)


def pod_of(world: World, kind: str = "Deployment") -> Manifest:
    spec: Manifest = child(world, kind)["spec"]["template"]["spec"]
    return spec


def variables(pod: Manifest) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in pod["containers"][0]["env"]}


def test_deployment_when_made_then_one_per_revision_never_rolled() -> None:
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


def test_runtime_when_started_then_gets_path_name_and_limits() -> None:
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


def test_runtime_when_started_then_has_identity_and_nats_url() -> None:
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


def test_runtime_when_the_body_limit_is_not_default_then_told() -> None:
    settings = replace(SETTINGS, max_body_bytes=8 << 20)
    world = World(manifest=resource(replicas=1), settings=settings)
    world.calm()
    assert variables(pod_of(world))["HEADRACE_MAX_BODY_BYTES"] == str(8 << 20)
    parsed = ModelDeployment.parse(resource())
    assert revision_of(parsed, settings) != revision_of(parsed, SETTINGS)


def test_runtime_when_probed_then_on_its_http_port() -> None:
    (container,) = pod_of(serving_world())["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": 8000}]
    assert container["readinessProbe"]["httpGet"] == {"path": "/health/ready", "port": "http"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/health/live", "port": "http"}
    assert pod_of(serving_world())["readinessGates"] == [{"conditionType": v.ROUTABLE_GATE}]


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_pods_when_made_then_restricted_standard_and_fast_start(kind: str) -> None:
    pod = pod_of(serving_world(), kind)
    security = pod["containers"][0]["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)


def test_models_when_a_claim_then_only_the_fetch_may_write() -> None:
    world = World(manifest=resource(), settings=replace(SETTINGS, models_claim="models"))
    world.calm()
    for kind, read_only in (("Deployment", {"readOnly": True}), ("Job", {})):
        pod = pod_of(world, kind)
        assert pod["volumes"] == [{"name": "models", "persistentVolumeClaim": {"claimName": "models", **read_only}}]
        mounts = pod["containers"][0]["volumeMounts"]
        assert mounts == [{"name": "models", "mountPath": "/models", **read_only}]


@pytest.mark.parametrize("claim", ["models", "weights.of-another-team"])
def test_models_when_source_is_a_claim_then_mounted_read_only(claim: str) -> None:
    manifest = resource(model={"source": {"uri": f"pvc://{claim}/smol/model.gguf"}})
    settings = replace(SETTINGS, models_claim="models", allowed_schemes=frozenset({"pvc"}))
    world = World(manifest=manifest, settings=settings)
    world.calm()
    for kind in ("Deployment", "Job"):
        pod = pod_of(world, kind)
        (volume,), (mount,) = pod["volumes"], pod["containers"][0]["volumeMounts"]
        assert volume["persistentVolumeClaim"] == {"claimName": claim, "readOnly": True}
        assert mount == {"name": "models", "mountPath": "/models", "readOnly": True}
    assert pod_of(world)["containers"][0]["args"][:2] == ["serve", "/models/smol/model.gguf"]


@pytest.mark.parametrize("uri", ["s3://bucket/smol/", "hf://org/model@main", "oci://registry.example/org/model:v1"])
def test_fetch_when_from_a_store_then_the_secret_s_variables(uri: str) -> None:
    """Only the fetch has them, and a namespace without the Secret works."""
    settings = replace(SETTINGS, allowed_schemes=frozenset({"s3", "hf", "oci"}))
    world = World(manifest=resource(model={"source": {"uri": uri}}), settings=settings)
    world.calm()
    fetch = pod_of(world, "Job")["containers"][0]
    assert fetch["envFrom"] == [{"secretRef": {"name": "headrace-sources", "optional": True}}]
    assert "envFrom" not in pod_of(world)["containers"][0]


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


def test_service_when_made_then_selects_pods_of_every_revision() -> None:
    world = serving_world(replicas=1)
    selector = child(world, "Service")["spec"]["selector"]
    labels = world.pods[world.runtimes()[0]]["metadata"]["labels"]
    assert selector.items() <= labels.items()
    assert v.REVISION_LABEL not in selector
    assert not selector.items() <= world.pods[world.fetch_pod() or ""]["metadata"]["labels"].items()


def test_names_when_the_resources_is_longest_then_children_fit() -> None:
    """They leave room for the names of their pods."""
    manifest = resource()
    manifest["metadata"]["name"] = "a" * 40
    world = World(manifest=manifest)
    for made in world.look().children:
        assert len(made.key.name) + len("-0123456789-abcde") <= 40 + 9 + 17 + len("fetch-")
        assert len(made.key.name) <= 63


# -- a cluster's settings --------------------------------------------------------------------------------------

CLUSTER = replace(
    SETTINGS,
    nats_url="nats://headrace-nats.platform:4222",
    models_claim="models",
    allowed_schemes=frozenset({"package", "https", "pvc"}),
    platform_namespace="platform",
    image_pull_secrets=("registry",),
    pod_security=True,
    images={**default_images(), "runtimeCuda": "headrace-runtime-llm-cuda"},
    fetch_env=(("HTTPS_PROXY", "http://proxy.example:3128"), ("NO_PROXY", "10.0.0.0/8")),
    ca_bundle_configmap="company-ca",
)


def in_cluster(**spec: Any) -> World:
    world = World(manifest=resource(**({"replicas": 1} | spec)), settings=CLUSTER)
    world.calm()
    return world


def policy(world: World, component: str) -> Manifest:
    found: Manifest = next(
        manifest["spec"]
        for key, manifest in world.children.items()
        if (key.kind, key.name) == ("NetworkPolicy", f"smol-{component}")
    )
    return found


def ports(rule: Manifest) -> set[tuple[str, int]]:
    return {(port["protocol"], port["port"]) for port in rule["ports"]}


def platform(*components: str) -> Manifest:
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "platform"}},
        "podSelector": {
            "matchExpressions": [
                {"key": "app.kubernetes.io/component", "operator": "In", "values": list(components)},
            ]
        },
    }


def test_guards_when_there_is_no_platform_then_none_is_made() -> None:
    kinds = {key.kind for key in serving_world().children}
    assert kinds == {"Deployment", "Job", "Service"}


def test_guards_when_there_is_a_platform_then_made_before_pods() -> None:
    outcome = World(manifest=resource(), settings=CLUSTER).look()
    kinds = [made.key.kind for made in outcome.children]
    guards = ["ServiceAccount", "NetworkPolicy", "NetworkPolicy"]
    assert kinds == [*guards, "Deployment", "Job", "Service"]


@pytest.mark.parametrize(
    ("spec", "made"),
    [
        ({"replicas": 1}, False),
        ({"replicas": 2}, True),
        ({"scaling": {"minReplicas": 0, "maxReplicas": 1}}, False),
        ({"scaling": {"minReplicas": 0, "maxReplicas": 2}}, True),
    ],
)
def test_disruption_budget_when_two_replicas_possible_then_made(spec: dict[str, Any], *, made: bool) -> None:
    assert ("PodDisruptionBudget" in {key.kind for key in in_cluster(**spec).children}) is made


def test_disruption_budget_when_made_then_one_pod_at_a_time() -> None:
    """Of whatever revision."""
    spec = child(in_cluster(replicas=2), "PodDisruptionBudget")["spec"]
    labels = {v.MANAGED_BY: "headrace", v.MODEL_LABEL: "smol", v.COMPONENT_LABEL: "runtime"}
    assert spec == {"maxUnavailable": 1, "selector": {"matchLabels": labels}}


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_pods_when_a_platform_then_no_token_and_no_rights(
    kind: str,
) -> None:
    """They have an account without a token and a user without rights."""
    world = in_cluster()
    pod = pod_of(world, kind)
    account = child(world, "ServiceAccount")
    assert pod["serviceAccountName"] == account["metadata"]["name"] == "smol-runtime"
    assert account["automountServiceAccountToken"] is False
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["securityContext"] == {
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "fsGroupChangePolicy": "OnRootMismatch",
    }


def test_runtime_when_made_then_its_only_volume_are_the_models() -> None:
    assert [volume["name"] for volume in pod_of(in_cluster())["volumes"]] == ["models"]


def test_runtime_when_listening_then_to_gateways_and_operator() -> None:
    rules = policy(in_cluster(), "runtime")
    assert rules["policyTypes"] == ["Ingress", "Egress"]
    (rule,) = rules["ingress"]
    assert rule["from"] == [platform("gateway", "operator")]
    assert ports(rule) == {("TCP", 8000)}


def test_runtime_when_it_asks_then_names_and_nats_alone() -> None:
    names, nats = policy(in_cluster(), "runtime")["egress"]
    assert ports(names) == {("UDP", 53), ("TCP", 53)}
    assert (nats["to"], ports(nats)) == ([platform("nats")], {("TCP", 4222)})


def test_fetch_when_connecting_then_web_and_proxy_only() -> None:
    """And nothing may connect to it."""
    world = in_cluster(model={"source": {"uri": "https://mirror.example:8443/smol.gguf"}})
    rules = policy(world, "fetch")
    assert "ingress" not in rules
    assert rules["policyTypes"] == ["Ingress", "Egress"]
    web = rules["egress"][-1]
    assert ports(web) == {("TCP", port) for port in (80, 443, 3128, 8443)}
    blocks = {block["ipBlock"]["cidr"]: block["ipBlock"]["except"] for block in web["to"]}
    assert blocks == {"0.0.0.0/0": ["169.254.0.0/16"], "::/0": ["fe80::/10"]}


def test_fetch_when_the_platform_has_settings_then_it_uses_them() -> None:
    """Its variables and its certificates."""
    pod = pod_of(in_cluster(), "Job")
    said = variables(pod)
    assert said["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert {said[name] for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")} == {"/etc/headrace/ca/ca.crt"}
    assert pod["volumes"][1] == {"name": "ca", "configMap": {"name": "company-ca"}}
    mount = pod["containers"][0]["volumeMounts"][1]
    assert mount == {"name": "ca", "mountPath": "/etc/headrace/ca", "readOnly": True}


@pytest.mark.parametrize(
    ("resources", "image"),
    [
        ({}, "headrace-runtime-llm"),
        ({"limits": {"memory": "1Gi"}}, "headrace-runtime-llm"),
        ({"limits": {"nvidia.com/gpu": "1"}}, "headrace-runtime-llm-cuda"),
        ({"requests": {"nvidia.com/gpu": "1"}}, "headrace-runtime-llm-cuda"),
    ],
)
def test_image_when_the_resources_name_a_gpu_then_the_cuda_image(resources: Manifest, image: str) -> None:
    world = in_cluster(template={"resources": resources})
    assert pod_of(world)["containers"][0]["image"] == image
    world.settings = replace(CLUSTER, images=default_images())
    world.calm()
    assert pod_of(world)["containers"][0]["image"] == "headrace-runtime-llm"


def test_children_when_made_then_no_empty_fields_a_server_drops() -> None:
    """A server drops what is false or empty (a variable's value, a volume's readOnly) unless it means something."""
    world = in_cluster(template={"env": [{"name": "EMPTY"}]})
    meant = {"automountServiceAccountToken", "enableServiceLinks", "allowPrivilegeEscalation", "resources"}
    assert not [path for made in world.children.values() for path in _empty(made) if path[-1] not in meant]


def _empty(part: Any, *path: str) -> Iterator[tuple[str, ...]]:
    if path and path[-1] == "status":
        return
    children = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for name, value in children:
        yield from _empty(value, *path, str(name))
    if part in ("", False, [], {}, None):
        yield path


def test_kept_children_when_server_filled_them_then_only_ours() -> None:
    """To claim a Job's selector would make the next apply take it away, which is refused."""
    world = in_cluster()
    said = {key: {k: x for k, x in made.items() if k != "status"} for key, made in world.children.items()}
    for key, made in world.children.items():
        match key.kind:
            case "Job":
                made["spec"] = {**made["spec"], "selector": {"matchLabels": {"uid": "1"}}, "parallelism": 1}
                template = made["spec"]["template"]
                labels = {**template["metadata"]["labels"], "batch.kubernetes.io/job-name": key.name}
                made["spec"]["template"] = {**template, "metadata": {"labels": labels, "creationTimestamp": None}}
            case "Service":
                made["spec"] = {**made["spec"], "clusterIPs": ["None"], "sessionAffinity": "None"}
            case "ServiceAccount":
                made["secrets"] = [{"name": "token"}]
            case "Deployment":
                made["spec"] = {**made["spec"], "revisionHistoryLimit": 10}
            case _:
                made["metadata"] = {**made["metadata"], "resourceVersion": "7"}
    world.apply(replicas=-1)
    assert {kept.key: kept.manifest for kept in world.decide().children} == said
