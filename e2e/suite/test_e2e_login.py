"""A namespace's login to NATS that somebody deletes or changes."""

from __future__ import annotations

import pytest
from behaviours.behaviours_traffic import post, short
from behaviours.behaviours_world import until, wait
from cluster_world import ClusterWorld
from kube import Kube
from release import NAME, NAMESPACE

SECRET = "headrace-nats"
BEFORE_AUDIT_SECONDS = 20.0
"""The operator looks at every login once a minute: what is healed sooner was healed by the watch."""

OPERATORS = f"app.kubernetes.io/instance={NAME},app.kubernetes.io/component=operator"
"""Those that are being deleted too: one of them would make a changed login anew."""

pytestmark = pytest.mark.alone


def data(kube: Kube, world: ClusterWorld) -> dict[str, str] | None:
    found = kube.find("secrets", world.namespace, SECRET)
    return None if found is None else found["data"]


def change(kube: Kube, world: ClusterWorld) -> None:
    patch = '{"stringData": {"password": "changed"}}'
    kube.kubectl("patch", "secret", SECRET, "-n", world.namespace, "--type=merge", "-p", patch)


def test_login_when_deleted_or_changed_then_recreated_at_once(kube: Kube, served: ClusterWorld) -> None:
    before = data(kube, served)
    assert before is not None
    kube.delete("secrets", served.namespace, SECRET)
    until(lambda: data(kube, served) == before, "the deleted login is there again", BEFORE_AUDIT_SECONDS)
    change(kube, served)
    until(lambda: data(kube, served) == before, "the changed login is as it was", BEFORE_AUDIT_SECONDS)


def test_pod_when_started_with_a_wrong_login_then_it_restarts(kube: Kube, served: ClusterWorld) -> None:
    """While no operator is there that would make the login anew."""
    kube.kubectl("scale", f"deployment/{NAME}-operator", "--replicas=0", "-n", NAMESPACE)
    try:
        until(lambda: not kube.items("pods", NAMESPACE, OPERATORS), "the operators are gone", served.patience)
        change(kube, served)
        for pod in served.pods("smol"):
            kube.force_delete(served.namespace, pod["metadata"]["name"])
        until(lambda: "refuses the login" in ended(served), "the pod's status says it", served.patience)
    finally:
        kube.kubectl("scale", f"deployment/{NAME}-operator", "--replicas=2", "-n", NAMESPACE)
        served.site.release.wait()
    wait(served, "smol", "Running")
    assert post(served, "/completions", short())[0] == 200


def ended(world: ClusterWorld) -> str:
    """Return how the runtime last ended."""
    states = [
        status.get(state, {}).get("terminated", {}).get("message", "")
        for pod in world.pods("smol")
        for status in pod.get("status", {}).get("containerStatuses", [])
        for state in ("state", "lastState")
    ]
    return " ".join(states)
