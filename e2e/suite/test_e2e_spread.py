"""Where replicas of the platform run when there are two nodes, and none has a zone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster_world import Site
from kube import Kube
from release import NAME, NAMESPACE

pytestmark = [pytest.mark.two_nodes, pytest.mark.timeout(600)]
RESTARTS = 4
PARTS = ("operator", "gateway")


@pytest.fixture
def both_nodes(site: Site) -> Iterator[list[str]]:
    cluster = site.cluster
    assert cluster is not None, "the nodes of the cluster are not ours to open"
    _, second = cluster.node_names
    cluster.load([site.release.images[part] for part in PARTS], [second])
    cluster.open(second)
    yield cluster.node_names
    cluster.close(second)


def test_replicas_when_restarted_on_nodes_without_zones_then_each_node_has_one(
    site: Site, kube: Kube, both_nodes: list[str]
) -> None:
    for _ in range(RESTARTS):
        kube.kubectl("rollout", "restart", *(f"deployment/{NAME}-{part}" for part in PARTS), "-n", NAMESPACE)
        for part in PARTS:
            kube.kubectl("rollout", "status", f"deployment/{NAME}-{part}", "-n", NAMESPACE, "--timeout=100s")
        for part in PARTS:
            assert sorted(pod["spec"]["nodeName"] for pod in site.release.pods(part)) == both_nodes, part
