"""Many models of one source, and what is left of a fetch that is over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from behaviours.behaviours_traffic import post, short
from behaviours.behaviours_world import SCALING, model, until, wait
from cluster_world import ClusterWorld, Site, tenant
from kube import Kube, Manifest

MODELS = 10


@pytest.fixture(scope="module")
def many(site: Site) -> Iterator[ClusterWorld]:
    with tenant(site, "e2e-many") as world:
        for index in range(MODELS):
            world.apply(model(world.model_uri, f"m{index}", scaling=SCALING))
        yield world


def jobs(kube: Kube, world: ClusterWorld) -> list[Manifest]:
    return kube.items("jobs", world.namespace)


def test_models_when_of_one_source_then_one_job_fetches_it(kube: Kube, many: ClusterWorld) -> None:
    for index in range(MODELS):
        assert wait(many, f"m{index}", "Cached", "ModelCached")["status"] == "True"
    assert len(jobs(kube, many)) == 1
    assert len({many.get(f"m{index}")["status"]["source"]["digest"] for index in range(MODELS)}) == 1


def test_job_when_removed_after_its_end_then_nothing_refetched(kube: Kube, many: ClusterWorld) -> None:
    """Kubernetes removes it after ttlSecondsAfterFinished, with its pod; here nobody waits for that."""
    (job,) = jobs(kube, many)
    assert job["spec"]["ttlSecondsAfterFinished"] == 300
    kube.kubectl("delete", "job", job["metadata"]["name"], "-n", many.namespace)
    fetched_for = job["metadata"]["labels"]["headrace.dev/model-deployment"]
    body = {**short(), "model": fetched_for}
    until(lambda: post(many, "/completions", body)[0] == 200, "the model wakes", many.patience)
    assert jobs(kube, many) == []
    assert wait(many, fetched_for, "Cached", "ModelCached")["status"] == "True"
