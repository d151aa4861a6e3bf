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


def test_replicas_when_nodes_have_no_zones_then_on_every_node(site: Site, kube: Kube, both_nodes: list[str]) -> None:
    """After a restart each node has one replica."""
    for _ in range(RESTARTS):
        kube.kubectl("rollout", "restart", *(f"deployment/{NAME}-{part}" for part in PARTS), "-n", NAMESPACE)
        for part in PARTS:
            kube.kubectl("rollout", "status", f"deployment/{NAME}-{part}", "-n", NAMESPACE, "--timeout=100s")
        for part in PARTS:
            assert sorted(pod["spec"]["nodeName"] for pod in site.release.pods(part)) == both_nodes, part
