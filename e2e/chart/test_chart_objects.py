"""What the chart makes: programs that are given what they understand, and what stands around them."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart.chart_rendering import CHART, EVERYTHING, NAMESPACE, SMALLEST, VARIANTS, WATCHED, Rendered, notes, render

from headrace.broker.settings import Settings as BrokerSettings
from headrace_gateway.settings import Settings as GatewaySettings
from headrace_operator.cleanup import clean_up
from headrace_operator.settings import Settings as OperatorSettings

COMPONENTS = {"operator", "gateway", "nats", "platform", "cleanup", "test"}
NAMED_LABELS = {"app.kubernetes.io/name": "headrace", "app.kubernetes.io/instance": "headrace"}
WORKLOADS = [("Deployment", "operator"), ("Deployment", "gateway"), ("StatefulSet", "nats")]


@pytest.fixture(params=VARIANTS)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return render(VARIANTS[request.param])


def flags(rendered: Rendered, kind: str, name: str) -> list[str]:
    return list(rendered.container(kind, name)["args"])


# -- everything ----------------------------------------------------------------------------------------------------
def test_objects_when_rendered_then_labelled_and_namespaced(rendered: Rendered) -> None:
    for one in rendered.objects:
        metadata, where = one["metadata"], f"{one['kind']}/{one['metadata']['name']}"
        labels = metadata["labels"]
        assert NAMED_LABELS.items() <= labels.items(), where
        assert labels["app.kubernetes.io/managed-by"] == "Helm", where
        assert labels["app.kubernetes.io/component"] in COMPONENTS, where
        cluster_wide = one["kind"].startswith("Cluster") or one["kind"] == "CustomResourceDefinition"
        assert cluster_wide == ("namespace" not in metadata), where


def test_pods_when_rendered_then_selector_labels_not_overridden(rendered: Rendered) -> None:
    for one in rendered.all("Deployment", "StatefulSet"):
        selector, labels = one["spec"]["selector"]["matchLabels"], one["spec"]["template"]["metadata"]["labels"]
        assert selector.items() <= labels.items()
        assert labels["app.kubernetes.io/managed-by"] == "Helm", "not headrace: the clean-up deletes what is"
        assert not any("version" in key or "chart" in key for key in labels), "a new chart alone restarts nothing"


def test_containers_when_rendered_then_requests_and_memory_limit(rendered: Rendered) -> None:
    for name, pod in rendered.pods():
        for container in pod["spec"]["containers"]:
            resources = container["resources"]
            assert resources["requests"].keys() >= {"cpu", "memory"}, name
            assert "memory" in resources["limits"], name


def test_containers_when_they_serve_then_each_is_probed(rendered: Rendered) -> None:
    for workload in WORKLOADS:
        container = rendered.container(*workload)
        ports = {port["name"] for port in container["ports"]}
        for probe in ("livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] in ports


def test_volumes_when_mounted_then_each_exists_and_is_bounded(rendered: Rendered) -> None:
    templates = {claim["metadata"]["name"] for one in rendered.all("StatefulSet") for claim in claims(one)}
    for name, pod in rendered.pods():
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", ())}
        mounts = {mount["name"] for one in pod["spec"]["containers"] for mount in one.get("volumeMounts", ())}
        assert mounts <= volumes.keys() | (templates if name.startswith("StatefulSet") else set()), name
        assert all("sizeLimit" in volume["emptyDir"] for volume in volumes.values()), name


def claims(stateful_set: dict[str, Any]) -> list[dict[str, Any]]:
    return list(stateful_set["spec"].get("volumeClaimTemplates", ()))


# -- programs ------------------------------------------------------------------------------------------------------
def test_gateway_when_it_is_started_so_then_it_understands(rendered: Rendered) -> None:
    settings = GatewaySettings.parse(flags(rendered, "Deployment", "gateway"), {})
    assert (settings.host, settings.port, settings.metrics_port) == ("0.0.0.0", 8080, 8081)
    assert settings.state_directory == Path("/state")


def test_gateway_when_values_are_defaults_then_a_key_is_required() -> None:
    assert GatewaySettings.parse(flags(render(), "Deployment", "gateway"), {}).anonymous_namespace is None
    settings = GatewaySettings.parse(flags(render(EVERYTHING), "Deployment", "gateway"), {})
    assert settings.anonymous_namespace == "default"


def test_broker_when_it_is_started_so_then_it_understands(rendered: Rendered) -> None:
    container = rendered.container("StatefulSet", "nats")
    settings = BrokerSettings.parse(container["args"], {one["name"]: "secret" for one in container["env"]})
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (settings.port, settings.monitoring_port) == (ports["nats"], ports["monitor"])
    assert str(settings.store) in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_operator_when_it_is_started_so_then_it_understands(rendered: Rendered) -> None:
    container = rendered.container("Deployment", "operator")
    variables = {one["name"]: one.get("value", f"the {one['name']}") for one in container["env"]}
    settings = OperatorSettings.parse(container["args"], variables)
    assert settings.health_port == container["ports"][0]["containerPort"]
    assert (settings.pod_name, settings.namespace) == ("the POD_NAME", "the POD_NAMESPACE")
    assert settings.nats_url == f"nats://headrace-nats.{NAMESPACE}.svc:4222"
    assert (settings.nats_user, settings.runtime_key) == ("the HEADRACE_NATS_USER", "the HEADRACE_NATS_RUNTIME_KEY")


def test_cleanup_when_it_is_started_so_then_it_understands(rendered: Rendered, monkeypatch: pytest.MonkeyPatch) -> None:
    if rendered.all("Job"):
        monkeypatch.setattr("headrace_operator.cleanup.asyncio.run", lambda work: work.close())
        assert clean_up(flags(rendered, "Job", "cleanup")[1:]) == 0


@pytest.mark.parametrize(("grace", "pre_stop"), [(60, 5), (600, 0), (1, 15)])
def test_gateway_when_stopped_then_grace_period_covers_phases(grace: int, pre_stop: int) -> None:
    rendered = render({"gateway": {"graceSeconds": grace, "preStopSeconds": pre_stop}})
    pod = rendered.get("Deployment", "gateway")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > grace + pre_stop
    assert f"--grace-seconds={grace}" in flags(rendered, "Deployment", "gateway")
    hook = pod["containers"][0].get("lifecycle")
    assert hook == ({"preStop": {"sleep": {"seconds": pre_stop}}} if pre_stop else None)


@pytest.mark.parametrize(
    ("values", "expected", "absent"),
    [
        (
            {},
            {
                f"--gateway-url=http://headrace-gateway.{NAMESPACE}.svc",
                "--image=fetch=headrace-fetch:0.1.0.dev0",
                "--image=runtime=headrace-runtime-llm:0.1.0.dev0",
                "--image=runtimeMoe=headrace-runtime-moe:0.1.0.dev0",
                "--lease-name=headrace-operator",
                "--models-claim=headrace-models",
                "--models-access-mode=ReadWriteMany",
                "--models-size=20Gi",
                "--max-body-bytes=4194304",
            },
            (
                "--models-storage-class",
                "--models-existing-claim",
                "--watch",
                "--image-pull",
                "--fetch-env",
                "--ca-bundle",
            ),
        ),
        (
            EVERYTHING,
            {
                "--gateway-url=https://llm.example.org",
                "--image=runtime=registry.example.org/mirror/headrace-runtime-llm:0.1.0.dev0",
                "--image=runtimeCuda=registry.example.org/mirror/headrace-runtime-llm-cuda:0.1.0.dev0",
                "--image-pull-secret=pull",
                "--models-storage-class=nfs",
                "--models-size=100Gi",
                "--fetch-env=HTTP_PROXY=http://proxy:3128",
                "--fetch-env=HTTPS_PROXY=http://proxy:3129",
                "--fetch-env=NO_PROXY=.svc,10.0.0.0/8",
                "--fetch-env=PIP_INDEX_URL=https://mirror.example.org/simple",
                "--ca-bundle-configmap=ca",
            },
            (),
        ),
        (
            SMALLEST,
            {"--models-claim=mine", "--models-existing-claim"},
            ("--models-size", "--models-storage-class", "--models-access-mode"),
        ),
        ({"gateway": {"maxBodyBytes": 8388608}}, {"--max-body-bytes=8388608"}, ()),
        (WATCHED, {"--watch-namespace=a", "--watch-namespace=b"}, ()),
        ({"gateway": {"publicUrl": "https://x.example.org/llm/"}}, {"--gateway-url=https://x.example.org/llm"}, ()),
        ({"gateway": {"service": {"port": 81}}}, {f"--gateway-url=http://headrace-gateway.{NAMESPACE}.svc:81"}, ()),
    ],
    ids=["default", "everything", "smallest", "body limit", "watched", "public URL", "port"],
)
def test_operator_when_values_are_set_then_it_is_told(values: Any, expected: set[str], absent: tuple[str, ...]) -> None:
    given = flags(render(values), "Deployment", "operator")
    assert expected <= set(given)
    assert not [flag for flag in given if absent and flag.startswith(absent)]


def test_images_when_named_then_registry_tag_and_digest_are_used() -> None:
    default, everything = render(), render(EVERYTHING)
    assert default.container("StatefulSet", "nats")["image"] == "headrace-nats:0.1.0.dev0"
    assert everything.container("StatefulSet", "nats")["image"] == "registry.example.org/mirror/headrace-nats:nats-1"
    pinned = f"registry.example.org/mirror/headrace-gateway@sha256:{'0' * 64}"
    assert everything.container("Deployment", "gateway")["image"] == pinned
    assert everything.container("Pod", "test")["image"] == pinned
    retagged = render({"images": {"tag": "x"}})
    assert retagged.container("Deployment", "operator")["image"] == "headrace-operator:x"
    assert retagged.container("Job", "cleanup")["image"] == "headrace-operator:x"


def test_pods_when_placement_is_given_then_they_follow(rendered: Rendered) -> None:
    pods = dict(rendered.pods())
    operator, gateway = (pods[f"Deployment/headrace-{name}"]["spec"] for name in ("operator", "gateway"))
    # One soft constraint: the scheduler ignores all of them on a node that lacks any one's key.
    assert [one["topologyKey"] for one in operator["topologySpreadConstraints"]] == ["kubernetes.io/hostname"]
    if operator.get("nodeSelector") == {"pool": "system"}:
        assert [one["topologyKey"] for one in gateway["topologySpreadConstraints"]] == ["rack"]
        assert "podAntiAffinity" not in gateway["affinity"]
        for spec in (operator, gateway, pods["StatefulSet/headrace-nats"]["spec"]):
            assert spec["priorityClassName"] == "system-cluster-critical"
            assert spec["tolerations"] == [{"key": "pool", "operator": "Exists"}]
            assert spec["imagePullSecrets"] == [{"name": "pull"}]
        assert pods["Job/headrace-cleanup"]["spec"]["nodeSelector"] == {"pool": "system"}


# -- what stands around them ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["operator", "gateway"])
def test_replicas_when_nodes_drained_or_rolled_then_one_serves(name: str) -> None:
    deployment, budget = render().get("Deployment", name), render().get("PodDisruptionBudget", name)
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["selector"] == deployment["spec"]["selector"]


def test_service_when_load_balancer_then_has_configured_fields() -> None:
    service = render(EVERYTHING).get("Service", "gateway")
    assert service["metadata"]["annotations"] == {"load-balancer": "internal"}
    assert service["spec"]["loadBalancerClass"] == "example.org/lb"
    assert service["spec"]["externalTrafficPolicy"] == "Local"
    assert (
        service["spec"]["ports"][0] | {"port": 8000, "nodePort": 30080, "targetPort": "http"}
        == service["spec"]["ports"][0]
    )
    plain = render({"gateway": {"service": {"nodePort": 30080, "externalTrafficPolicy": "Local"}}})
    assert "nodePort" not in plain.get("Service", "gateway")["spec"]["ports"][0], "a ClusterIP has none"


def test_services_when_they_select_then_pods_have_the_port(rendered: Rendered) -> None:
    for kind, name in (("Deployment", "gateway"), ("StatefulSet", "nats")):
        service, workload = rendered.get("Service", name), rendered.get(kind, name)
        assert service["spec"]["selector"] == workload["spec"]["selector"]["matchLabels"]
        ports = {port["name"] for port in rendered.container(kind, name)["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_ingress_when_enabled_then_hosts_reach_gateway_with_tls() -> None:
    ingress = render(EVERYTHING).get("Ingress", "gateway")["spec"]
    assert ingress["ingressClassName"] == "nginx"
    assert ingress["tls"] == [{"secretName": "llm-tls", "hosts": ["llm.example.org"]}]
    (rule,) = ingress["rules"]
    (path,) = rule["http"]["paths"]
    assert (rule["host"], path["path"], path["pathType"]) == ("llm.example.org", "/", "Prefix")
    assert path["backend"]["service"] == {"name": "headrace-gateway", "port": {"name": "http"}}
    assert render().all("Ingress", "HTTPRoute", "HorizontalPodAutoscaler") == []


def test_http_route_when_enabled_then_it_joins_the_gateway_given() -> None:
    route = render(EVERYTHING).get("HTTPRoute", "gateway")
    assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert route["spec"]["parentRefs"] == [{"name": "public", "namespace": "gateways", "sectionName": "https"}]
    (rule,) = route["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": "headrace-gateway", "port": 8000}]
    assert rule["timeouts"] == {"request": "0s"}


def test_autoscaling_when_enabled_then_deployment_omits_replicas() -> None:
    rendered = render(EVERYTHING)
    scaler, deployment = rendered.get("HorizontalPodAutoscaler", "gateway"), rendered.get("Deployment", "gateway")
    assert scaler["spec"]["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "headrace-gateway",
    }
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 6)
    assert "replicas" not in deployment["spec"], "an upgrade would undo what the autoscaler did"


def test_broker_when_persistent_then_its_claim_goes_with_release() -> None:
    stateful_set = render().get("StatefulSet", "nats")
    assert stateful_set["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Delete"
    (claim,) = claims(stateful_set)
    labels = claim["metadata"]["labels"]
    assert not any("version" in key or "chart" in key for key in labels), "they cannot change at an upgrade"
    assert claims(render(SMALLEST).get("StatefulSet", "nats")) == []


def test_crds_when_installed_then_they_are_kept_and_unchanged() -> None:
    (crd,) = render().all("CustomResourceDefinition")
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    file = CHART / "files/crds" / f"{crd['metadata']['name']}.yaml"
    assert crd["spec"] == yaml.safe_load(file.read_text())["spec"]
    assert not (CHART / "crds").exists(), "helm would install that first, and the release could not own it"
    assert render(SMALLEST).all("CustomResourceDefinition") == []


# -- hooks ---------------------------------------------------------------------------------------------------------
def test_cleanup_when_uninstalled_then_rights_only_for_it() -> None:
    """The cleanup's roles are created before its job starts, and none remains."""
    rendered = render()
    hooks = {
        f"{one['kind']}/{one['metadata']['name']}": one["metadata"]["annotations"]
        for one in rendered.objects
        if one["metadata"].get("annotations", {}).get("helm.sh/hook") == "pre-delete"
    }
    own = [one for one in rendered.objects if one["metadata"]["labels"]["app.kubernetes.io/component"] == "cleanup"]
    assert len(hooks) == len(own) == 8
    assert all("hook-succeeded" in one["helm.sh/hook-delete-policy"] for one in hooks.values())
    weights = {name: int(one["helm.sh/hook-weight"]) for name, one in hooks.items()}
    job = weights.pop("Job/headrace-cleanup")
    after = {name for name, weight in weights.items() if weight > job}
    assert after == {"Lease/headrace-operator", "Pod/headrace-test"}, "by their names they replace what else would stay"
    assert f"--lease-name={rendered.get('Lease', 'operator')['metadata']['name']}" in flags(
        rendered, "Deployment", "operator"
    )


def test_cleanup_when_models_kept_then_it_cannot_delete_claim() -> None:
    def may_delete_claims(rendered: Rendered) -> bool:
        rules = rendered.get("ClusterRole", "cleanup")["rules"]
        return any("persistentvolumeclaims" in rule["resources"] for rule in rules)

    assert not may_delete_claims(render())
    assert not [flag for flag in flags(render(), "Job", "cleanup") if flag.startswith("--delete")]
    assert may_delete_claims(render(EVERYTHING))
    assert "--delete-models" in flags(render(EVERYTHING), "Job", "cleanup")
    users = {"models": {"existingClaim": "mine"}, "cleanup": {"keepModels": False}}
    assert not may_delete_claims(render(users)), "what the user made is the user's"


def test_cleanup_when_switched_off_then_there_is_none() -> None:
    assert not [one for one in render(SMALLEST).objects if "cleanup" in one["metadata"]["name"]]


def test_test_pod_when_rendered_then_its_program_is_python() -> None:
    pod = render().container("Pod", "test")
    assert pod["command"] == ["python3", "-c"]
    ast.parse(pod["args"][0])
    assert pod["args"][0].strip() == (CHART / "files/check_gateway.py").read_text().strip()
    assert pod["args"][1:] == [f"http://headrace-gateway.{NAMESPACE}.svc:80"]


# -- notes ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("variant", VARIANTS)
def test_notes_when_installed_then_they_lead_from_key_to_answer(variant: str, tmp_path: Path) -> None:
    text = notes(VARIANTS[variant], tmp_path)
    for step in ("helm -n platform test", "headrace.dev/api-key=true", "examples/smollm2.yaml", "/v1/chat/completions"):
        assert step in text
    assert ("port-forward" in text) == (variant != "everything")
    assert "kubectl -n a create secret" in text if variant == "watched" else "kubectl -n default create secret" in text
