"""The cluster, the worlds in it, and what is shown of them after a failure."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from behaviours.behaviours_world import SCALING, Engine, World, model, until, wait
from cluster import CACHE
from cluster_world import SMOLLM2_PATH, ClusterWorld, Site, is_ready, tenant, tenants, was_restarted
from installation import KUBECONFIG, custom_container, prepare
from kube import MOST_DUMPED, Kube
from release import NAMESPACE
from skips import fail_skipped

REPORTS = CACHE / "e2e-reports"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What changes the whole cluster comes after everything else, and the end comes last."""
    items.sort(key=lambda item: [mark in item.keywords for mark in ("last", "two_nodes", "upgrades", "alone")])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Keep what a person would look at after a failure, as long as it is still there."""
    del call
    report = (yield).get_result()
    fail_skipped(report)
    kubeconfig = os.environ.get(KUBECONFIG)
    if report.failed and kubeconfig is not None:
        kube = Kube(Path(kubeconfig))
        with contextlib.suppress(OSError, AssertionError):  # the cluster itself may be what is broken
            text = kube.dump([NAMESPACE, *tenants(kube)])
            REPORTS.mkdir(parents=True, exist_ok=True)
            file = REPORTS / f"{item.name}-{report.when}.txt"
            file.write_text(text)
            report.sections.append((f"cluster (whole: {file})", text[-MOST_DUMPED:]))


@pytest.fixture(scope="session")
def site() -> Site:
    """headrace in the cluster that `e2e/main.py` made, or that was told."""
    kubeconfig = os.environ.get(KUBECONFIG)
    assert kubeconfig is not None, f"run `make e2e`; or `make cluster-up`, and set {KUBECONFIG}"
    return prepare(Path(kubeconfig))


@pytest.fixture(scope="session")
def kube(site: Site) -> Kube:
    return site.kube


@pytest.fixture(scope="session")
def served(site: Site) -> Iterator[ClusterWorld]:
    """A tenant with the model `smol`, one replica, always there; tests leave it as they found it."""
    with tenant(site, "e2e-served") as world:
        yield _with_smol(world)


@pytest.fixture(scope="module")
def zero(site: Site) -> Iterator[ClusterWorld]:
    """A tenant with the model `smol`, which rests after two seconds."""
    with tenant(site, "e2e-zero") as world:
        world.apply(model(world.model_uri, scaling=SCALING))
        yield world


@pytest.fixture(scope="session")
def engine(site: Site) -> Engine:
    return custom_container(site)


@pytest.fixture
def faulty(served: ClusterWorld) -> ClusterWorld:
    """What is broken in a cluster mends: no tenant of its own is needed.

    A replica that was killed before is replaced: the kubelet doubles the pause before each restart of a container.
    """
    for pod in filter(was_restarted, served.pods("smol")):
        served.site.kube.force_delete(served.namespace, pod["metadata"]["name"])
    until(lambda: [is_ready(pod) for pod in served.pods("smol")] == [True], "its replica is ready", served.patience)
    wait(served, "smol", "Running")
    return served


@pytest.fixture(scope="session")
def smollm2_path(served: World) -> Path:
    """The model's file, as this machine sees it once a fetch Job has brought it."""
    wait(served, "smol", "Cached", "ModelCached")
    return SMOLLM2_PATH


def _with_smol(world: ClusterWorld) -> ClusterWorld:
    world.apply(model(world.model_uri))
    wait(world, "smol", "Running")
    return world
