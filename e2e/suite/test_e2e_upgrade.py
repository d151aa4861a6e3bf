"""`helm upgrade` under traffic: every part is replaced, every model rolls, and nobody notices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from behaviours.behaviours_traffic import Traffic
from behaviours.behaviours_world import revisions, until, wait
from cluster_world import ClusterWorld, Site
from kube import Kube
from release import COMPONENTS, NAMESPACE, Images

pytestmark = [pytest.mark.upgrades, pytest.mark.timeout(600)]
SUFFIX = "-next"


@pytest.fixture
def other_tags(site: Site) -> Iterator[Images]:
    """The same images under other tags: what an upgrade changes before there is a release to upgrade from."""
    assert site.cluster is not None, "only kind's nodes can be given another tag"
    others = {component: f"{site.release.images[component]}{SUFFIX}" for component in COMPONENTS}
    for component, image in others.items():
        site.cluster.tag(site.release.images[component], image)
    yield others
    site.release.install()


def test_release_when_up_or_downgraded_then_no_request_fails(
    site: Site, kube: Kube, served: ClusterWorld, other_tags: Images
) -> None:
    wait(served, "smol", "Running")
    passwords = nats_passwords(kube)
    before = revisions(served, "smol")
    with Traffic(served, seconds=420).running() as traffic:
        site.release.install(site.release.values(other_tags))
        assert images_of(site, "gateway") == {other_tags["gateway"]}
        until(lambda: len(now := revisions(served, "smol")) == 1 and now != before, "the model rolled", served.patience)
        site.release.rollback()
        site.release.wait()
        until(lambda: revisions(served, "smol") == before, "the model rolled back", served.patience)
    traffic.assert_nothing_lost()
    assert images_of(site, "gateway") == {site.release.images["gateway"]}
    assert nats_passwords(kube) == passwords, "an upgrade keeps the credentials"


def nats_passwords(kube: Kube) -> list[str]:
    return [str(kube.get("secrets", NAMESPACE, f"headrace-nats-{role}")["data"]) for role in ("reconciler", "gateway")]


def images_of(site: Site, component: str) -> set[str]:
    return {pod["spec"]["containers"][0]["image"] for pod in site.release.pods(component)}
