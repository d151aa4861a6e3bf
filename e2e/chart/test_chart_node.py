"""The node agent in the chart: off by default, with exactly the privileges that its parts need."""

from __future__ import annotations

from typing import Any

import pytest
from chart.chart_network import OUTSIDE, Peer, may_speak
from chart.chart_rendering import NAMESPACE, Manifest, Refused, Rendered, render

from headrace_node.settings import AgentSettings, CsiSettings, KeeperSettings, parse

ENABLED: dict[str, Any] = {"node": {"enabled": True}}
MIB = 1 << 20
NAMED = {"app.kubernetes.io/name": "headrace", "app.kubernetes.io/component": "node"}


def spec_of(rendered: Rendered) -> Manifest:
    spec: Manifest = rendered.pod("DaemonSet", "node")["spec"]
    return spec


def containers(values: dict[str, Any]) -> dict[str, Manifest]:
    return {one["name"]: one for one in spec_of(render({"node": {"enabled": True, **values}}))["containers"]}


def settings_of(container: Manifest) -> AgentSettings | CsiSettings | KeeperSettings:
    return parse(container["args"], {one["name"]: "n" for one in container.get("env", ())})


def test_node_when_values_are_defaults_then_chart_has_none_of_it() -> None:
    rendered = render()
    assert not rendered.all("DaemonSet", "CSIDriver")
    assert not [one for one in rendered.objects if one["metadata"]["name"].endswith("-node")]


def test_node_when_enabled_then_only_the_operator_is_told() -> None:
    def others(values: dict[str, Any]) -> list[Manifest]:
        found = render(values).all("Deployment", "StatefulSet", "NetworkPolicy", "Service", "ClusterRole")
        return [one for one in found if not one["metadata"]["name"].endswith("-node")]

    with_agent, without = others(ENABLED), others({})
    (operator,) = (
        one for one in with_agent if one["kind"] == "Deployment" and one["metadata"]["name"].endswith("-operator")
    )
    for argument in ("--node-agent", "--kept-configmap=headrace-node-kept"):
        operator["spec"]["template"]["spec"]["containers"][0]["args"].remove(argument)
    assert with_agent == without


def test_node_when_enabled_then_objects_are_labelled() -> None:
    own = [one for one in render(ENABLED).objects if one["metadata"]["labels"].items() >= NAMED.items()]
    assert {one["kind"] for one in own} == {"DaemonSet", "CSIDriver", "ServiceAccount", "NetworkPolicy", "ConfigMap"}
    assert all(one["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm" for one in own)


def test_node_when_enabled_then_privileges_are_as_named() -> None:
    """The agent has two capabilities, the keeper none, and the CSI service is privileged, for its mounts."""
    security = {name: one["securityContext"] for name, one in containers({}).items()}
    assert security["agent"]["capabilities"] == {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN"]}
    assert security["keeper"]["capabilities"] == {"drop": ["ALL"]}
    assert [name for name, one in security.items() if one.get("privileged")] == ["csi"]
    assert all(one["readOnlyRootFilesystem"] for one in security.values())
    assert all(security[name]["allowPrivilegeEscalation"] is False for name in ("agent", "keeper"))


def test_node_when_enabled_then_shares_nothing_else_of_the_node() -> None:
    spec = spec_of(render(ENABLED))
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    rendered = render(ENABLED)
    assert not [one for one in rendered.all("RoleBinding", "ClusterRoleBinding") if "-node" in str(one["subjects"])]
    paths = {one["name"]: one["hostPath"]["path"] for one in spec["volumes"] if "hostPath" in one}
    assert [one["configMap"] for one in spec["volumes"] if "hostPath" not in one] == [{"name": "headrace-node-kept"}]
    assert paths == {
        "sockets": "/run/headrace-node",
        "csi": "/var/lib/kubelet/plugins/node.headrace.dev",
        "registration": "/var/lib/kubelet/plugins_registry",
        "pods": "/var/lib/kubelet/pods",
    }
    mounted = {name: {mount["name"] for mount in one["volumeMounts"]} for name, one in containers({}).items()}
    assert mounted == {"agent": {"sockets", "kept"}, "keeper": {"sockets"}, "csi": set(paths)}


def test_programs_when_started_so_then_their_paths_agree() -> None:
    found = containers({"kubeletDirectory": "/var/lib/k0s/kubelet"})
    agent, keeper, csi = (settings_of(found[name]) for name in ("agent", "keeper", "csi"))
    assert isinstance(agent, AgentSettings)
    assert isinstance(keeper, KeeperSettings)
    assert isinstance(csi, CsiSettings)
    assert agent.keeper_socket == keeper.socket
    assert agent.admin_socket == csi.admin_socket
    assert str(csi.kubelet_endpoint) == "/var/lib/k0s/kubelet/plugins/node.headrace.dev/csi.sock"
    mounts = {one["name"]: one for one in found["csi"]["volumeMounts"]}
    assert mounts["pods"]["mountPath"] == str(csi.pods_directory) == "/var/lib/k0s/kubelet/pods"
    assert mounts["pods"]["mountPropagation"] == "Bidirectional"
    assert (mounts["csi"]["mountPath"], mounts["registration"]["mountPath"]) == (
        "/csi",
        str(csi.registration_directory),
    )


@pytest.mark.parametrize(("memory", "mebibytes"), [("512Mi", 512), ("1Gi", 1024), ("2Ti", 2 << 20)])
def test_store_when_sized_then_pod_requests_its_memory(memory: str, mebibytes: int) -> None:
    agent = containers({"store": {"memory": memory}})["agent"]
    settings, resources = settings_of(agent), agent["resources"]
    assert isinstance(settings, AgentSettings)
    assert settings.store_bytes == mebibytes * MIB
    assert int(resources["requests"]["memory"]) == (mebibytes + 128) * MIB
    assert int(resources["limits"]["memory"]) == (mebibytes + 256) * MIB


def test_store_when_in_huge_pages_then_pod_requests_those() -> None:
    agent = containers({"store": {"memory": "1Gi", "hugePages": True}})["agent"]
    settings, resources = settings_of(agent), agent["resources"]
    assert isinstance(settings, AgentSettings)
    assert settings.huge_pages
    assert resources["requests"]["hugepages-2Mi"] == resources["limits"]["hugepages-2Mi"] == str(1024 * MIB)
    assert resources["requests"]["memory"] == "128Mi"


@pytest.mark.parametrize("memory", ["1G", "1024", "0Gi", "1.5Gi", ""])
def test_store_when_size_is_no_binary_quantity_then_refused(memory: str) -> None:
    with pytest.raises(Refused, match=r"node\.store\.memory"):
        render({"node": {"enabled": True, "store": {"memory": memory}}})


def test_driver_when_installed_then_kubelet_sends_pod_info() -> None:
    (driver,) = render(ENABLED).all("CSIDriver")
    assert driver["metadata"]["name"] == "node.headrace.dev"
    assert driver["spec"]["volumeLifecycleModes"] == ["Ephemeral"]
    assert driver["spec"]["podInfoOnMount"] is True
    assert driver["spec"]["attachRequired"] is False


@pytest.mark.parametrize(("monitored", "passes"), [([], False), (["monitoring"], True)])
def test_connections_when_policies_apply_then_only_needed_pass(monitored: list[str], *, passes: bool) -> None:
    rendered = render({**ENABLED, "networkPolicies": {"metricsFromNamespaces": monitored}})
    policies = rendered.all("NetworkPolicy")
    agent = Peer(NAMESPACE, rendered.pod("DaemonSet", "node")["metadata"]["labels"], {"metrics": 8081})
    prometheus, stranger = (Peer(name, {"app": "x"}) for name in ("monitoring", "tenant"))
    assert may_speak(policies, prometheus, agent, 8081) is passes
    assert not may_speak(policies, stranger, agent, 8081)
    assert not may_speak(policies, stranger, agent, 8082)
    assert may_speak(policies, Peer("tenant", {"app.kubernetes.io/managed-by": "headrace"}), agent, 8082)
    assert not may_speak(policies, agent, OUTSIDE, 443)


def test_placement_when_given_then_daemon_set_follows() -> None:
    placed = {"nodeSelector": {"pool": "models"}, "priorityClassName": "system-node-critical"}
    spec = spec_of(render({"node": {"enabled": True, **placed}}))
    assert {key: spec[key] for key in placed} == placed


def test_list_when_enabled_then_operator_may_only_write_it() -> None:
    """The agents read the ConfigMap that the operator writes; without them there is none."""

    def granted(values: dict[str, Any]) -> list[Manifest]:
        role = render(values).get("Role", "operator-leader")
        return [rule for rule in role["rules"] if "configmaps" in rule["resources"]]

    (rule,) = granted(ENABLED)
    assert (rule["resourceNames"], rule["verbs"]) == (["headrace-node-kept"], ["patch"])
    assert granted({}) == []
    assert "data" not in render(ENABLED).get("ConfigMap", "node-kept")
    settings = settings_of(containers({})["agent"])
    assert isinstance(settings, AgentSettings)
    (mount,) = (one for one in containers({})["agent"]["volumeMounts"] if one["name"] == "kept")
    assert str(settings.kept_objects) == f"{mount['mountPath']}/objects"
