"""A second kind: the operator of the release, started with the kind's module beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from behaviours.behaviours_kinds import NAME as GREETING_NAME
from behaviours.behaviours_kinds import SecondKindBehaviour, a_model, ready
from behaviours.behaviours_world import until
from cluster_world import ClusterWorld, Site, tenant
from kinds import greeting
from kube import Kube, Manifest
from release import NAME, NAMESPACE

from headrace.api.vocabulary import MANAGED_BY, REFUSED
from headrace.kinds.crds import crd_of
from headrace.reconcile.ownership import owner_annotation

OPERATOR = f"{NAME}-operator"
OBJECTS = "headrace-e2e-kinds"
MODULES = "/modules"
READS = ["get", "list", "watch"]
pytestmark = [pytest.mark.alone, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def greetings(site: Site, kube: Kube) -> Iterator[ClusterWorld]:
    """A tenant of an operator that has the kind."""
    crd = crd_of(greeting.GREETING)
    name = crd["metadata"]["name"]
    kube.apply(crd, *rights(), module())
    kube.kubectl("wait", "--for=condition=Established", f"crd/{name}")
    before = kube.get("deployments", NAMESPACE, OPERATOR)["spec"]["template"]
    try:
        kube.kubectl("patch", f"deployment/{OPERATOR}", "-n", NAMESPACE, "-p", json.dumps(with_kind()))
        kube.wait_available("deployments", NAMESPACE, OPERATOR)
        with tenant(site, "e2e-kinds") as world:
            yield world
    finally:
        restored = [{"op": "replace", "path": "/spec/template", "value": before}]
        kube.kubectl("patch", f"deployment/{OPERATOR}", "-n", NAMESPACE, "--type=json", "-p", json.dumps(restored))
        kube.wait_available("deployments", NAMESPACE, OPERATOR)
        kube.kubectl("delete", f"crd/{name}", f"clusterrole/{OBJECTS}", f"clusterrolebinding/{OBJECTS}")
        kube.kubectl("delete", f"configmap/{OBJECTS}", "-n", NAMESPACE)


class TestSecondKind(SecondKindBehaviour):
    def test_greeting_when_listed_then_its_crd_says_how(self, greetings: ClusterWorld) -> None:
        greetings.apply(a_model())
        greetings.apply(greeting.greeting(GREETING_NAME, model=GREETING_NAME))
        ready(greetings, "True", "ModelReady")
        listed = greetings.site.kube.kubectl("get", "hi", "-n", greetings.namespace)
        assert [line.split()[:2] for line in listed.splitlines()] == [["NAME", "READY"], [GREETING_NAME, "True"]]

    def test_cluster_scoped_child_is_made_refused_and_deleted(self, greetings: ClusterWorld) -> None:
        """An object of its name that a user made is neither adopted nor deleted, whatever its annotation says."""
        kube, priority = greetings.site.kube, greeting.PRIORITY_CLASS
        name = greeting.GREETING.cluster_child_name(greetings.namespace, GREETING_NAME)
        metadata = {"namespace": greetings.namespace, "name": GREETING_NAME, "uid": "any"}
        claim = owner_annotation({"kind": greeting.KIND.kind, "metadata": metadata})
        labelled = {"name": name, "labels": {MANAGED_BY: "headrace"}, "annotations": claim}
        kube.apply({"apiVersion": priority.api_version, "kind": priority.kind, "metadata": labelled, "value": 7})
        try:
            greetings.apply(greeting.greeting(GREETING_NAME, model=GREETING_NAME, priority=1))
            assert "has another owner" in ready(greetings, "False", REFUSED)["message"]
            greetings.remove(greeting.KIND.plural, GREETING_NAME)
            greetings.apply(greeting.greeting(GREETING_NAME, model=GREETING_NAME, priority=1))
            ready(greetings, "False", REFUSED)
            assert kube.get(priority.plural, None, name)["value"] == 7
            kube.delete(priority.plural, None, name)
            until(lambda: value(kube, name) == 1, "the PriorityClass is the Greeting's", greetings.patience)
            greetings.remove(greeting.KIND.plural, GREETING_NAME)
            until(lambda: value(kube, name) is None, "it is deleted with the Greeting", greetings.patience)
        finally:
            kube.delete(priority.plural, None, name)


def value(kube: Kube, name: str) -> int | None:
    """Return the value of a PriorityClass; None: it does not exist."""
    found = kube.find(greeting.PRIORITY_CLASS.plural, None, name)
    return None if found is None else int(found["value"])


def with_kind() -> Manifest:
    """Return the patch of the operator's Deployment."""
    container = {
        "name": "operator",
        "command": ["python", "-c", greeting.PROGRAM.format(module="headrace_operator.main")],
        "env": [{"name": "PYTHONPATH", "value": MODULES}],
        "volumeMounts": [{"name": "modules", "mountPath": MODULES}],
    }
    volume = {"name": "modules", "configMap": {"name": OBJECTS}}
    return {"spec": {"template": {"spec": {"containers": [container], "volumes": [volume]}}}}


def module() -> Manifest:
    """Return the ConfigMap with the kind's module."""
    file = Path(greeting.__file__)
    metadata = {"name": OBJECTS, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {file.name: file.read_text()}}


def rights() -> tuple[Manifest, Manifest]:
    """Return the role and the binding that the chart would have for the kind."""
    kind = greeting.KIND
    rules = [
        {"apiGroups": [kind.group], "resources": [kind.plural], "verbs": READS},
        {"apiGroups": [kind.group], "resources": [f"{kind.plural}/status"], "verbs": ["patch"]},
        {"apiGroups": [kind.group], "resources": [f"{kind.plural}/finalizers"], "verbs": ["update"]},
        *(
            {"apiGroups": [child.group], "resources": [child.plural], "verbs": [*READS, "create", "patch", "delete"]}
            for child in greeting.GREETING.children
        ),
    ]
    api, metadata = "rbac.authorization.k8s.io/v1", {"name": OBJECTS}
    role = {"apiVersion": api, "kind": "ClusterRole", "metadata": metadata, "rules": rules}
    account = {"kind": "ServiceAccount", "name": OPERATOR, "namespace": NAMESPACE}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": OBJECTS}
    binding = {"kind": "ClusterRoleBinding", "metadata": metadata, "roleRef": reference, "subjects": [account]}
    return role, {"apiVersion": api, **binding}
