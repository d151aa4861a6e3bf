"""What the chart's pods may: as little as the restricted standard, the roles and the policies say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
from chart.chart_network import DNS, OUTSIDE, Peer, may_speak
from chart.chart_rendering import EVERYTHING, NAMESPACE, SMALLEST, VARIANTS, WATCHED, Manifest, Rendered, render

from headrace.kinds.registry import RESOURCE_KINDS, child_kinds

ALLOWED_VOLUMES = {"configMap", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


@pytest.fixture(params=VARIANTS)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return render(VARIANTS[request.param])


def violations(pod: Manifest) -> Iterator[str]:
    """Yield what Kubernetes' restricted pod security standard forbids of a pod, and what we forbid besides."""
    spec, security = pod["spec"], pod["spec"]["securityContext"]
    yield from (name for name in ("hostNetwork", "hostPID", "hostIPC", "hostUsers") if name in spec)
    yield from (f"volume {one}" for one in spec.get("volumes", ()) if not one.keys() <= {"name", *ALLOWED_VOLUMES})
    if security.get("runAsNonRoot") is not True or security.get("runAsUser") != 65532:
        yield "may run as root"
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "no seccomp profile"
    for container in spec["containers"] + spec.get("initContainers", []):
        own = container["securityContext"]
        wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        if own != wanted:
            yield f"container {container['name']}: {own}"
        yield from (f"host port of {container['name']}" for port in container.get("ports", ()) if "hostPort" in port)


def test_pods_when_rendered_then_restricted_standard_admits_them(rendered: Rendered) -> None:
    assert {name: list(violations(pod)) for name, pod in rendered.pods() if list(violations(pod))} == {}


def test_pods_when_rendered_then_only_api_clients_have_a_token(rendered: Rendered) -> None:
    with_token = {name for name, pod in rendered.pods() if pod["spec"]["automountServiceAccountToken"]}
    assert with_token - {"Job/headrace-cleanup"} == {"Deployment/headrace-operator"}
    assert not any(one["automountServiceAccountToken"] for one in rendered.all("ServiceAccount"))


def rules(rendered: Rendered) -> Iterator[tuple[str, Manifest]]:
    for role in rendered.all("Role", "ClusterRole"):
        for rule in role["rules"]:
            yield role["metadata"]["name"], rule


def test_roles_when_rendered_then_nothing_is_granted_by_wildcard(rendered: Rendered) -> None:
    assert list(rules(rendered))
    for name, rule in rules(rendered):
        assert rule.keys() <= {"apiGroups", "resources", "verbs", "resourceNames"}, name
        assert not any("*" in word for part in rule.values() for word in part), (name, rule)


READS = ["get", "list", "watch"]
WRITES = [*READS, "create", "update", "patch", "delete", "deletecollection"]


@pytest.mark.parametrize(
    ("name", "into", "verbs", "scale"),
    [
        ("view", {"view", "edit", "admin"}, READS, ["get"]),
        ("edit", {"edit", "admin"}, WRITES, ["get", "update", "patch"]),
    ],
)
def test_user_role_when_bound_in_namespace_then_it_covers_models(
    name: str, into: set[str], verbs: list[str], scale: list[str]
) -> None:
    role = render().get("ClusterRole", name)
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    assert {label.removeprefix(prefix) for label in role["metadata"]["labels"] if label.startswith(prefix)} == into
    granted = {(rule["apiGroups"][0], each): rule["verbs"] for rule in role["rules"] for each in rule["resources"]}
    expected: dict[tuple[str, str], list[str]] = {}
    for resource in RESOURCE_KINDS.values():
        group, plural = resource.kind.group, resource.kind.plural
        expected |= {(group, plural): verbs, (group, f"{plural}/status"): ["get"]}
        if resource.scalable:
            expected[group, f"{plural}/scale"] = scale
    assert granted == expected


@dataclass(frozen=True)
class Granted:
    """What verbs are granted on: a resource of an API group, or one object of it."""

    group: str
    resource: str
    name: str | None = None


OWN_RIGHTS: dict[Granted, set[str]] = {
    Granted("", "pods"): {*READS, "patch"},
    Granted("", "pods/status"): {"patch"},
    Granted("", "secrets"): {"list", "watch"},
    Granted("", "secrets", "headrace-nats"): {"get", "create", "patch", "delete"},
    Granted("", "persistentvolumeclaims", "headrace-models"): {"get", "create", "patch"},
    Granted("", "events"): {"create", "list", "patch"},
}
"""What the operator may do whatever kinds there are."""


CLEANUP_RIGHTS: dict[Granted, set[str]] = {
    Granted("", "secrets"): {"list"},
    Granted("", "secrets", "headrace-nats"): {"delete"},
}
"""What the clean-up may do whatever kinds there are."""


def granted_by(role: Manifest) -> dict[Granted, set[str]]:
    granted: dict[Granted, set[str]] = {}
    for rule in role["rules"]:
        for group, plural, name in product(rule["apiGroups"], rule["resources"], rule.get("resourceNames", [None])):
            granted.setdefault(Granted(group, plural, name), set()).update(rule["verbs"])
    return granted


def roles_of(component: str) -> list[tuple[Manifest, bool]]:
    """Return a component's ClusterRole and its Roles of named namespaces, and whether it is the ClusterRole."""
    restricted = [one for one in render(WATCHED).all("Role") if one["metadata"]["name"] == f"headrace-{component}"]
    assert len(restricted) == len(WATCHED["watchNamespaces"])
    return [(render().get("ClusterRole", component), True), *((role, False) for role in restricted)]


def test_operator_when_rendered_then_has_the_rights_of_registry() -> None:
    """It reads resources and writes their status, reads and writes the kinds of their children, and no more."""
    for role, cluster in roles_of("operator"):
        expected = dict(OWN_RIGHTS)
        for resource in RESOURCE_KINDS.values():
            group, plural = resource.kind.group, resource.kind.plural
            expected |= {
                Granted(group, plural): set(READS),
                Granted(group, f"{plural}/status"): {"patch"},
                Granted(group, f"{plural}/finalizers"): {"update"},
            }
        for child in child_kinds():
            if child.namespaced or cluster:
                expected[Granted(child.group, child.plural)] = {*READS, "create", "patch", "delete"}
        assert granted_by(role) == expected


def test_cleanup_when_rendered_then_has_the_rights_of_registry() -> None:
    """It lists and deletes the kinds of children; a cluster-scoped child is read first, whose label proves nothing."""
    for role, cluster in roles_of("cleanup"):
        expected = dict(CLEANUP_RIGHTS)
        for child in child_kinds():
            if child.namespaced or cluster:
                verbs = {"list", "delete"} | (set() if child.namespaced else {"get"})
                expected[Granted(child.group, child.plural)] = verbs
        assert granted_by(role) == expected


def test_operator_when_rendered_then_cannot_escalate_or_inspect() -> None:
    """Nothing that can grant rights, read logs or enter a pod is granted."""
    granted = {resource for _, rule in rules(render()) for resource in rule["resources"]}
    assert not [one for one in granted if one.startswith(("role", "clusterrole", "nodes", "pods/log", "pods/exec"))]
    assert not granted & {"serviceaccounts/token", "customresourcedefinitions", "configmaps", "statefulsets"}


def test_operator_when_the_claim_is_the_users_then_it_makes_none() -> None:
    role = render(SMALLEST).get("ClusterRole", "operator")
    assert not [rule for rule in role["rules"] if "persistentvolumeclaims" in rule["resources"]]


def test_namespaces_when_named_then_roles_replace_cluster_role() -> None:
    rendered = render(WATCHED)
    people = [one["metadata"]["name"] for one in rendered.all("ClusterRole", "ClusterRoleBinding")]
    assert people == ["headrace-edit", "headrace-view"]
    for kind in ("Role", "RoleBinding"):
        for name in ("headrace-operator", "headrace-cleanup"):
            found = [one["metadata"]["namespace"] for one in rendered.all(kind) if one["metadata"]["name"] == name]
            assert found == ["a", "b"]
    for workload in (("Deployment", "operator"), ("Job", "cleanup")):
        flags = [one for one in rendered.container(*workload)["args"] if one.startswith("--watch-namespace")]
        assert flags == ["--watch-namespace=a", "--watch-namespace=b"]


def test_bindings_when_rendered_then_each_role_has_one_account(rendered: Rendered) -> None:
    for binding in rendered.all("RoleBinding", "ClusterRoleBinding"):
        role, (subject,) = binding["roleRef"], binding["subjects"]
        assert role["name"] == binding["metadata"]["name"]
        assert role["kind"] == binding["kind"].removesuffix("Binding")
        assert subject["kind"] == "ServiceAccount"
        assert subject["namespace"] == NAMESPACE
        assert binding["metadata"]["name"].startswith(subject["name"])


# -- who may speak to whom -----------------------------------------------------------------------------------------
def peer(rendered: Rendered, kind: str, name: str) -> Peer:
    ports = {port["name"]: port["containerPort"] for port in rendered.container(kind, name).get("ports", ())}
    return Peer(NAMESPACE, rendered.pod(kind, name)["metadata"]["labels"], ports)


def peers(values: Any) -> dict[str, Peer]:
    rendered = render(values)
    ours = {
        "operator": peer(rendered, "Deployment", "operator"),
        "gateway": peer(rendered, "Deployment", "gateway"),
        "nats": peer(rendered, "StatefulSet", "nats"),
        "cleanup": peer(rendered, "Job", "cleanup"),
        "test": peer(rendered, "Pod", "test"),
    }
    by_us = {"app.kubernetes.io/managed-by": "headrace"}
    return {
        **ours,
        "runtime": Peer("tenant", {**by_us, "headrace.dev/component": "runtime"}),
        "runtime of a": Peer("a", {**by_us, "headrace.dev/component": "runtime"}),
        "fetch": Peer("tenant", {**by_us, "headrace.dev/component": "fetch"}),
        "stranger": Peer("tenant", {"app": "anything"}),
        "neighbour": Peer(NAMESPACE, {"app": "anything"}),
        "prometheus": Peer("monitoring", {"app": "prometheus"}),
        "outside": OUTSIDE,
    }


CONNECTIONS = [
    # from, to, port, by default, with everything, with watched namespaces
    ("outside", "gateway", 8080, True, True, True),
    ("stranger", "gateway", 8080, True, False, True),
    ("test", "gateway", 8080, True, True, True),
    ("stranger", "gateway", 8081, False, False, False),
    ("prometheus", "gateway", 8081, False, True, False),
    ("prometheus", "operator", 8081, False, True, False),
    ("stranger", "operator", 8081, False, False, False),
    ("gateway", "runtime", 8000, True, True, False),
    ("gateway", "runtime of a", 8000, True, True, True),
    ("gateway", "runtime", 30000, True, False, False),
    ("gateway", "fetch", 8000, False, False, False),
    ("gateway", "stranger", 8000, False, False, False),
    ("gateway", "nats", 4222, True, True, True),
    ("operator", "nats", 4222, True, True, True),
    ("runtime", "nats", 4222, True, True, False),
    ("runtime of a", "nats", 4222, True, True, True),
    ("fetch", "nats", 4222, True, True, False),
    ("stranger", "nats", 4222, False, False, False),
    ("neighbour", "nats", 4222, False, False, False),
    ("outside", "nats", 4222, False, False, False),
    ("test", "nats", 4222, False, False, False),
    ("runtime", "nats", 8222, False, False, False),
    ("gateway", "nats", 8222, False, False, False),
    ("operator", "outside", 443, True, True, True),
    ("operator", "outside", 6443, True, True, True),
    ("operator", "outside", 80, False, False, False),
    ("cleanup", "outside", 443, True, True, True),
    ("cleanup", "nats", 4222, False, False, False),
    ("gateway", "outside", 443, False, False, False),
    ("nats", "outside", 443, False, False, False),
    ("nats", "outside", DNS, False, False, False),
    ("operator", "outside", DNS, True, True, True),
    ("gateway", "outside", DNS, True, True, True),
    ("operator", "gateway", 8080, False, False, False),
    ("operator", "runtime of a", 8000, True, True, True),
    ("operator", "fetch", 8000, False, False, False),
]


@pytest.mark.parametrize(("source", "target", "port", "default", "everything", "watched"), CONNECTIONS)
def test_connection_when_policies_apply_then_only_needed_pass(
    source: str, target: str, port: int, *, default: bool, everything: bool, watched: bool
) -> None:
    for values, wanted in (({}, default), (EVERYTHING, everything), (WATCHED, watched)):
        known, policies = peers(values), render(values).all("NetworkPolicy")
        assert may_speak(policies, known[source], known[target], port) is wanted, values


def test_policies_when_rendered_then_every_pod_denied_by_default() -> None:
    rendered = render()
    deny = rendered.get("NetworkPolicy", "deny")["spec"]
    assert deny.keys() == {"podSelector", "policyTypes"}
    assert set(deny["policyTypes"]) == {"Ingress", "Egress"}
    for name, pod in rendered.pods():
        assert deny["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items(), name


# -- the broker's passwords ----------------------------------------------------------------------------------------
def passwords(rendered: Rendered) -> set[str]:
    return {
        secret["data"][field]
        for secret in rendered.all("Secret")
        for field in ("password", "key")
        if field in secret["data"]
    }


def test_passwords_when_rendered_twice_then_they_differ() -> None:
    """So whoever renders without a cluster gives Secrets of their own; with one, `lookup` keeps them (e2e upgrade)."""
    first, second = render({}, "--set", "nameOverride="), render({}, "--set", "fullnameOverride=")
    assert len(passwords(first)) == 3
    assert not passwords(first) & passwords(second)


def test_passwords_when_secrets_are_named_then_those_are_used() -> None:
    rendered = render(EVERYTHING)
    assert rendered.all("Secret") == []
    used = {
        variable["name"]: variable["valueFrom"]["secretKeyRef"]["name"]
        for workload in (("Deployment", "operator"), ("StatefulSet", "nats"))
        for variable in rendered.container(*workload)["env"]
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    assert used["HEADRACE_NATS_PASSWORD"] == "r"
    assert used["HEADRACE_NATS_GATEWAY_PASSWORD"] == "g"
    assert used["HEADRACE_NATS_RUNTIME_KEY"] == "k"


def test_secrets_when_referred_to_then_each_key_exists(rendered: Rendered) -> None:
    made = {one["metadata"]["name"]: one["data"].keys() for one in rendered.all("Secret")}
    if not made:
        return
    for _, pod in rendered.pods():
        for variable in pod["spec"]["containers"][0].get("env", ()):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                assert reference["key"] in made[reference["name"]]
