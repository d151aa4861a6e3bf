"""What a drain does: evictions of replicas, one at a time, and `kubectl drain` of the node of an only one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from http import HTTPStatus

import pytest
from behaviours.behaviours_traffic import Traffic
from behaviours.behaviours_world import until, wait
from cluster_world import ClusterWorld, Site
from kube import Kube, Manifest, path_of
from release import NAMESPACE

pytestmark = [pytest.mark.two_nodes, pytest.mark.timeout(600)]
MOVED = ("operator", "gateway", "runtime")
DRAIN = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s")


@pytest.fixture
def second_node(site: Site, kube: Kube, served: ClusterWorld) -> Iterator[str]:
    """The second node, opened, with the model's only replica and a gateway on it."""
    cluster = site.cluster
    assert cluster is not None, "the nodes of the cluster are not ours to drain"
    first, second = cluster.node_names
    cluster.load([site.release.images[component] for component in MOVED], [second])
    cluster.open(second)
    cluster.close(first)
    for namespace, pod in (
        (NAMESPACE, site.release.pods("gateway")[0]),
        (NAMESPACE, site.release.pods("operator")[0]),
        (served.namespace, served.pods("smol")[0]),
    ):
        kube.delete("pods", namespace, pod["metadata"]["name"])
        gone = pod["metadata"]["name"]
        until(lambda n=namespace, p=gone: kube.find("pods", n, p) is None, f"{gone} is gone", served.patience)  # type: ignore[misc]
    site.release.wait()
    until(lambda: nodes_of(served) == [second], lambda: f"the replica is there: {nodes_of(served)}", served.patience)
    wait(served, "smol", "Running")
    cluster.open(first)
    yield second
    cluster.open(first)
    cluster.close(second)


def nodes_of(world: ClusterWorld) -> list[str]:
    return [pod["spec"].get("nodeName", "") for pod in world.pods("smol")]


def test_node_when_drained_under_traffic_then_no_request_fails(
    site: Site, kube: Kube, served: ClusterWorld, second_node: str
) -> None:
    """The only replica moves to another node."""
    gateways = [pod["spec"]["nodeName"] for pod in site.release.pods("gateway")]
    assert second_node in gateways
    with Traffic(served, seconds=300).running() as traffic:
        kube.kubectl("drain", second_node, *DRAIN, seconds=200)
        wait(served, "smol", "Running")
        site.release.wait()
    traffic.assert_nothing_lost()
    assert second_node not in nodes_of(served)


def test_replicas_when_one_is_evicted_then_the_other_stays(kube: Kube, served: ClusterWorld) -> None:
    """It stays until the evicted replica is replaced."""
    budget = partial(kube.find, "poddisruptionbudgets", served.namespace, "smol-runtime")
    served.scale("smol", 2)
    until(lambda: allowed(budget()) == 1, lambda: f"one may go: {budget()}", served.patience)
    first, second = served.pods("smol")
    assert evict(kube, first) == HTTPStatus.CREATED
    assert evict(kube, second) == HTTPStatus.TOO_MANY_REQUESTS
    until(lambda: allowed(budget()) == 1, lambda: f"the next one may go: {budget()}", served.patience)
    served.scale("smol", 1)
    until(lambda: len(served.lives("smol")) == 1, "one replica is left", served.patience)
    until(lambda: budget() is None, "of one replica there is no budget", served.patience)
    wait(served, "smol", "Running")


def allowed(budget: Manifest | None) -> int:
    """Return how many replicas may be evicted now: both are there, or the budget still counts those of before."""
    status = (budget or {}).get("status", {})
    return int(status["disruptionsAllowed"]) if status.get("currentHealthy") == 2 else 0


def evict(kube: Kube, pod: Manifest) -> int:
    """Ask for a pod's eviction as `kubectl drain` does; return the answer's status."""
    metadata = {key: pod["metadata"][key] for key in ("name", "namespace")}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    path = path_of("pods", metadata["namespace"], metadata["name"])
    return kube.request("POST", f"{path}/eviction", eviction)[0]
