"""Installation of headrace in a cluster: build and load the images, install the chart."""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from behaviours.behaviours_world import Engine
from cluster import GATEWAY_PORT, ROOT, CannotRun, Cluster
from cluster_world import Site
from kube import Kube
from progress import step
from release import REPOSITORIES, Images, Release

KUBECONFIG = "HEADRACE_E2E_KUBECONFIG"
"""Kubeconfig of an existing cluster, which is not deleted. Images are loaded into it if it is one of kind's."""
URL = "HEADRACE_E2E_URL"
"""For a cluster without kind: URL of the gateway's Service from this machine."""
REGISTRY = "HEADRACE_E2E_REGISTRY"
"""For such a cluster: prefix of the images, including that of `custom_container`, which the caller must push."""
STORAGE_CLASS = "HEADRACE_E2E_STORAGE_CLASS"
"""For such a cluster: a StorageClass with ReadWriteMany volumes."""


def prepare(kubeconfig: Path, *, every_node: bool = False) -> Site:
    """Return a cluster with headrace built from this checkout. Existing images and releases are reused.

    Images are loaded into the first node of kind only, unless `every_node` is set: the suite's second node is cordoned,
    and a test that uncordons it loads them.
    """
    kube, cluster = Kube(kubeconfig), kind_cluster(kubeconfig)
    with step("building the images"):
        images = built_images()
    if cluster is None:
        site = _foreign(kube, images)
    else:
        cluster.load(list(images.values()), () if every_node else cluster.node_names[:1])
        site = Site(kube, Release(kube, images), f"http://127.0.0.1:{GATEWAY_PORT}", cluster)
    site.release.install()
    with step("waiting for every part to be available"):
        site.release.wait()
    return site


def kind_cluster(kubeconfig: Path) -> Cluster | None:
    """Return the kind cluster of a kubeconfig; None for another cluster."""
    context = str(yaml.safe_load(kubeconfig.read_text())["current-context"])
    kind, dash, name = context.partition("-")
    return Cluster(name) if (kind, dash) == ("kind", "-") else None


def built_images() -> Images:
    """Build the changed images, and return the names of all by the chart's components."""
    built = _built()
    return {component: built[repository] for component, repository in REPOSITORIES.items()}


def custom_container(site: Site) -> Engine:
    """Return an engine with `transformers serve`. The image is built and loaded here, for the only test with it."""
    runtime = site.release.images["runtime"].rpartition("/")[2]  # its name on this machine
    engine = _build_module().Image(
        "transformers",
        also=("transformers[serving]", "torch"),
        files=("tests/behaviours/behaviours_weights.py",),
        dockerfile="e2e/transformers.Dockerfile",
    )
    (image,) = _built(runtime, (engine,)).values()
    if site.cluster is None:
        image = f"{os.environ[REGISTRY]}/{image}"
    else:
        site.cluster.load([image], site.cluster.node_names[:1])
    return Engine(image, "/weights")


def _built(*arguments: Any) -> dict[str, str]:
    module = _build_module()
    try:
        return dict(module.build_all(*arguments))
    except module.CannotBuild as error:
        raise CannotRun(f"the images cannot be built: {error}") from error


@cache
def _build_module() -> Any:
    """Return the module `images/build.py`, which is not in a package."""
    spec = importlib.util.spec_from_file_location("headrace_images", ROOT / "images/build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # required by dataclasses
    spec.loader.exec_module(module)
    return module


def _foreign(kube: Kube, images: Images) -> Site:
    missing = [name for name in (URL, REGISTRY, STORAGE_CLASS) if not os.environ.get(name)]
    if missing:
        raise CannotRun(
            f"the cluster is not kind's, so set {', '.join(missing)}; e2e/installation.py says what they mean"
        )
    prefixed = {component: f"{os.environ[REGISTRY]}/{image}" for component, image in images.items()}
    release = Release(kube, prefixed, pull_policy="IfNotPresent", storage_class=os.environ[STORAGE_CLASS])
    return Site(kube, release, os.environ[URL].rstrip("/"))
