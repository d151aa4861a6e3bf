"""`helm uninstall`: what headrace made goes, what the user made stays, and it can come back."""

from __future__ import annotations

import pytest
from behaviours.behaviours_traffic import post, short
from behaviours.behaviours_world import until, wait
from cluster_world import ClusterWorld, Site
from kube import Kube

pytestmark = [pytest.mark.last, pytest.mark.timeout(600)]
STAYS = ("customresourcedefinitions//modeldeployments.headrace.dev", "persistentvolumeclaims/e2e-")
"""Definitions, because deleting them would delete the user's resources; models, because they were slow to get."""


def test_release_when_uninstalled_then_crds_and_data_stay(site: Site, kube: Kube, served: ClusterWorld) -> None:
    """It can be installed again."""
    wait(served, "smol", "Running")
    assert len(site.release.objects()) > len(STAYS)
    site.release.uninstall()

    def left() -> list[str]:
        return [found for found in site.release.objects() if not found.startswith(STAYS)]

    until(lambda: left() == [], lambda: f"nothing is left: {left()}", served.patience)
    assert kube.items("pods", served.namespace) == []
    assert served.get("smol")["spec"]["model"]["source"]["uri"] == served.model_uri
    assert kube.find("secrets", served.namespace, "e2e") is not None
    assert kube.find("secrets", served.namespace, "headrace-nats") is None
    site.release.install()
    wait(served, "smol", "Running")
    until(lambda: post(served, "/completions", short())[0] == 200, "it serves as before", served.patience)
