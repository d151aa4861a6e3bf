"""Parts that only a cluster has, killed under traffic: a leader, one gateway of two, whole pods."""

from __future__ import annotations

import pytest
from behaviours.behaviours_traffic import Traffic, post, short
from behaviours.behaviours_world import SCALING, model, revisions, until, wait
from cluster_world import ClusterWorld, Site
from kube import Kube, Manifest
from release import NAME, NAMESPACE

LEADER_SECONDS = 15
BROKEN_CONNECTIONS = (
    *("ConnectionResetError", "ConnectionRefusedError", "BrokenPipeError"),
    *("RemoteDisconnected", "IncompleteRead", "BadStatusLine"),
)


def leader(kube: Kube) -> str:
    """Return the name of the operator's pod that leads."""
    lease = kube.get("leases", NAMESPACE, f"{NAME}-operator")
    return str(lease["spec"].get("holderIdentity") or "")


def leader_pod(site: Site) -> Manifest:
    """Return the pod that leads, once one does."""

    def look() -> Manifest | None:
        holder = leader(site.kube)
        return next((pod for pod in site.release.pods("operator") if holder.startswith(pod["metadata"]["name"])), None)

    return until(look, lambda: f"an operator leads; the lease's holder is {leader(site.kube)}")


def test_operator_when_leader_is_killed_then_other_takes_over(site: Site, served: ClusterWorld) -> None:
    """Nothing is lost under traffic."""
    before = leader_pod(site)
    with Traffic(served).running() as traffic:
        site.kill_container(NAMESPACE, before)
        until(
            lambda: leader(site.kube) and leader(site.kube) != before["metadata"]["name"],
            "the other operator leads",
            LEADER_SECONDS,
        )
        served.apply(model(served.model_uri, "after", scaling=SCALING))
        wait(served, "after", "Idle")
    traffic.assert_nothing_lost()
    served.delete("after")


def test_operator_when_unavailable_then_running_models_serve(site: Site, kube: Kube, served: ClusterWorld) -> None:
    """A wake waits until an operator is available."""
    served.apply(model(served.model_uri, "sleeper", scaling={**SCALING, "idleTimeoutSeconds": 1}))
    wait(served, "sleeper", "Idle")
    until(lambda: served.lives("sleeper") == [], "it rests", served.patience)
    with Traffic(served).running() as traffic:
        for pod in site.release.pods("operator"):
            kube.force_delete(NAMESPACE, pod["metadata"]["name"])
        assert post(served, "/completions", short("sleeper"))[0] == 200
    traffic.assert_nothing_lost()
    site.release.wait()
    served.delete("sleeper")


def test_gateway_when_one_of_two_killed_then_only_its_own_break(site: Site, served: ClusterWorld) -> None:
    """Only connections of the killed gateway break."""
    wait(served, "smol", "Running")
    lives = served.lives("smol")
    with Traffic(served).running() as traffic:
        served.kill_part("gateway")
        until(lambda: served.part_is_whole("gateway"), "every gateway is back", served.patience)
        before = len(traffic.errors)
        good = len(traffic.statuses)
        until(lambda: len(traffic.statuses) >= good + 20, "traffic flows on", served.patience)
        assert len(traffic.errors) == before, "no connection breaks once it is back"
    assert set(traffic.statuses) == {200}
    assert all(error.startswith(BROKEN_CONNECTIONS) for error in traffic.errors), traffic.errors
    assert served.lives("smol") == lives


def test_gateway_when_pod_deleted_under_traffic_then_no_failure(site: Site, kube: Kube, served: ClusterWorld) -> None:
    with Traffic(served).running() as traffic:
        pod = site.release.pods("gateway")[0]["metadata"]["name"]
        kube.delete("pods", NAMESPACE, pod)
        until(lambda: kube.find("pods", NAMESPACE, pod) is None, "it is gone", served.patience)
        site.release.wait()
    traffic.assert_nothing_lost()


def test_replica_when_pod_force_deleted_then_no_request_fails(kube: Kube, served: ClusterWorld) -> None:
    (pod,) = served.pods("smol")
    with Traffic(served).running() as traffic:
        kube.force_delete(served.namespace, pod["metadata"]["name"])
        until(lambda: pod["metadata"]["uid"] not in uids(served), "it is gone", served.patience)
        wait(served, "smol", "Running")
    traffic.assert_nothing_lost()


@pytest.mark.parametrize("kind", ["deployments", "services"])
def test_child_when_it_is_deleted_by_hand_then_it_is_made_again(kube: Kube, served: ClusterWorld, kind: str) -> None:
    wait(served, "smol", "Running")
    before = kube.items(kind, served.namespace, "headrace.dev/model-deployment=smol")
    for child in before:
        kube.delete(kind, served.namespace, child["metadata"]["name"])
    gone = {child["metadata"]["uid"] for child in before}

    def remade() -> bool:
        now = kube.items(kind, served.namespace, "headrace.dev/model-deployment=smol")
        return len(now) == len(before) and not gone & {child["metadata"]["uid"] for child in now}

    until(remade, "it is there again", served.patience)
    wait(served, "smol", "Running")
    until(lambda: post(served, "/completions", short())[0] == 200, "it serves", served.patience)
    assert len(revisions(served, "smol")) == 1


def test_children_when_orphaned_then_new_resource_adopts_them(kube: Kube, served: ClusterWorld) -> None:
    """The running pod serves on."""
    idle_seconds = 20
    manifest = model(served.model_uri, "adopted", scaling={**SCALING, "idleTimeoutSeconds": idle_seconds})
    served.apply(manifest)
    wait(served, "adopted", "Idle")
    assert post(served, "/completions", short("adopted"))[0] == 200
    wait(served, "adopted", "Running")
    lives = served.lives("adopted")
    kube.kubectl("delete", "mdep/adopted", "-n", served.namespace, "--cascade=orphan")
    served.apply(manifest)
    wait(served, "adopted", "Running")
    until(lambda: post(served, "/completions", short("adopted"))[0] == 200, "it is answered", served.patience)
    assert served.lives("adopted") == lives
    (deployment,) = kube.items("deployments", served.namespace, "headrace.dev/model-deployment=adopted")
    owners = [owner["uid"] for owner in deployment["metadata"]["ownerReferences"]]
    assert owners == [served.get("adopted")["metadata"]["uid"]]
    until(lambda: served.lives("adopted") == [], "it scales to zero when it is idle", served.patience)
    served.delete("adopted")


def uids(world: ClusterWorld) -> set[str]:
    return {pod["metadata"]["uid"] for pod in world.pods("smol")}
