"""A cluster as a world: a namespace of its own, an API key, and containers for pods."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from behaviours.behaviours_world import Manifest, Part, held_requests, until
from cluster import MODELS, MODELS_IN_NODE, OUR_USER, ROOT, Cluster
from kube import SECONDS, Kube
from release import MODELS_CLAIM, NAME, NAMESPACE, STORAGE_CLASS, Release, renew_volume, volume

from headrace.routes.api_keys import digest_of, new_key
from headrace.sources.location import location

FILES = MODELS / "files"
"""Directory of the tests' sources, with a folder for each tenant."""
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted", "headrace-e2e": "true"}
"""Labels of a tenant's namespace, in which the API server rejects pods that violate the restricted standard."""
EXAMPLE: Manifest = yaml.safe_load((ROOT / "examples/smollm2.yaml").read_text())
SMOLLM2 = str(EXAMPLE["spec"]["model"]["source"]["uri"])
SMOLLM2_PATH = MODELS / location(SMOLLM2, None)
"""Path on this machine of the example's model as a fetch Job writes it."""


@dataclass(frozen=True)
class Site:
    """A cluster with headrace."""

    kube: Kube
    release: Release
    gateway: str
    """Base URL of the gateway's Service from this machine."""
    cluster: Cluster | None = None
    """Set if the nodes are containers on this machine, so that processes in them can be killed."""

    def kill_container(self, namespace: str, pod: Manifest) -> str:
        """`kill -9` a pod's only container; return its id. Without access to nodes: delete the pod by force."""
        container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
        if self.cluster is not None:
            self.cluster.kill_container(pod["spec"]["nodeName"], container)
        else:
            self.kube.force_delete(namespace, pod["metadata"]["name"])
        return str(container)


@dataclass(frozen=True)
class ClusterWorld:
    """See `behaviours.behaviours_world.World`."""

    site: Site
    namespace: str
    api_key: str
    patience: float = SECONDS
    model_uri: str = SMOLLM2
    killed: set[str] = field(default_factory=set)
    """Ids of the containers that were killed here."""

    @property
    def base_url(self) -> str:
        return f"{self.site.gateway}/v1"

    @property
    def engine_image(self) -> str:
        return self.site.release.images["runtime"]

    def uri(self, file: str) -> str:
        return f"pvc://{MODELS_CLAIM}/{self._path(file).relative_to(MODELS)}"

    def put(self, file: str, content: bytes) -> None:
        path = self._path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if os.geteuid() == 0:
            os.chown(path, OUR_USER, OUR_USER)

    def apply(self, manifest: Manifest) -> None:
        metadata = {**manifest["metadata"], "namespace": self.namespace}
        self.site.kube.apply({**manifest, "metadata": metadata})

    def delete(self, name: str) -> None:
        self.site.kube.kubectl("delete", f"mdep/{name}", "-n", self.namespace)

    def get(self, name: str) -> Manifest:
        return self.site.kube.get("modeldeployments", self.namespace, name)

    def find(self, kind: str, name: str) -> Manifest | None:
        return self.site.kube.find(kind, self.namespace, name)

    def remove(self, kind: str, name: str) -> None:
        self.site.kube.kubectl("delete", f"{kind}/{name}", "-n", self.namespace)

    def describe(self, name: str) -> str:
        return self.site.kube.kubectl("describe", f"mdep/{name}", "-n", self.namespace)

    def scale(self, name: str, replicas: int) -> None:
        self.site.kube.kubectl("scale", f"mdep/{name}", f"--replicas={replicas}", "-n", self.namespace)

    def lives(self, name: str) -> list[str]:
        """Return the id of each runtime pod's container, once every pod has one that was not killed.

        A replica registers itself, so it may serve up to a second (the kubelet's interval) before the API server shows
        its container; until then a pod has none, or the killed one.
        """

        def reported() -> tuple[list[str]] | None:
            lives = [_container(pod) for pod in self.pods(name)]
            return (lives,) if all(life and life not in self.killed for life in lives) else None

        return until(reported, f"every pod of {name} has a new container", self.patience)[0]

    def pods(self, name: str) -> list[Manifest]:
        """Return a model's runtime pods, including terminating ones."""
        selector = f"headrace.dev/model-deployment={name},headrace.dev/component=runtime"
        return self.site.kube.items("pods", self.namespace, selector)

    def kill(self, name: str) -> None:
        self.lives(name)
        (pod,) = [pod for pod in self.pods(name) if not pod["metadata"].get("deletionTimestamp")]
        self.killed.add(self.site.kill_container(self.namespace, pod))

    def kill_part(self, part: Part) -> None:
        self.killed.add(self.site.kill_container(NAMESPACE, self.site.release.pods(part)[0]))

    def part_is_whole(self, part: Part) -> bool:
        kind = "statefulsets" if part == "nats" else "deployments"
        pods = self.site.release.pods(part)
        alive = all(_container(pod) not in self.killed and is_ready(pod) for pod in pods)
        return alive and self.site.kube.available(kind, NAMESPACE, f"{NAME}-{part}")

    @contextlib.contextmanager
    def without_nats(self) -> Iterator[None]:
        self._scale_nats(0)
        try:
            until(lambda: not self.site.release.pods("nats"), "NATS is gone", self.patience)
            yield
        finally:
            self._scale_nats(1)

    def held(self, public_name: str) -> float:
        return sum(held or 0.0 for held in self._held(public_name))

    def is_routed(self, public_name: str) -> bool:
        return None not in self._held(public_name)

    def _held(self, public_name: str) -> list[float | None]:
        """Read the metrics of every gateway, through the API server's proxy."""
        kube = self.site.kube
        pods = [pod["metadata"]["name"] for pod in self.site.release.pods("gateway")]
        answers = [kube.request("GET", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}:8081/proxy/metrics") for pod in pods]
        return [held_requests(text, public_name) if status == 200 else None for status, text in answers]

    def _scale_nats(self, replicas: int) -> None:
        self.site.kube.kubectl("scale", f"statefulset/{NAME}-nats", f"--replicas={replicas}", "-n", NAMESPACE)

    def _path(self, file: str) -> Path:
        return FILES / self.namespace / file


def key_secret(namespace: str, name: str, key: str, **data: str) -> Manifest:
    """Return the Secret of an API key."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": {"headrace.dev/api-key": "true"}},
        "stringData": {"sha256": digest_of(key), **data},
    }


@contextlib.contextmanager
def tenant(site: Site, namespace: str, directory: str = "") -> Iterator[ClusterWorld]:
    """A namespace with a volume for its models and a key, for as long as the context is entered."""
    kube, key = site.kube, new_key(namespace)
    _remove(kube, namespace)
    shutil.rmtree(FILES / namespace, ignore_errors=True)
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": RESTRICTED}})
    if site.release.storage_class == STORAGE_CLASS:
        path = f"{MODELS_IN_NODE}/{directory}".rstrip("/")
        renew_volume(kube, volume(namespace, MODELS_CLAIM, path))
    kube.apply(key_secret(namespace, "e2e", key))
    try:
        yield ClusterWorld(site, namespace, key)
    finally:
        kube.delete("namespaces", None, namespace)  # only the next test with this namespace waits for the deletion


def tenants(kube: Kube) -> list[str]:
    """Return the namespaces that the suite created."""
    return [found["metadata"]["name"] for found in kube.items("namespaces", selector="headrace-e2e=true")]


def _remove(kube: Kube, namespace: str) -> None:
    kube.delete("namespaces", None, namespace)
    until(lambda: kube.find("namespaces", None, namespace) is None, f"the namespace {namespace} is gone", SECONDS)


def _container(pod: Manifest) -> str:
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return str(statuses[0].get("containerID", "")).rpartition("/")[2] if statuses else ""


def was_restarted(pod: Manifest) -> bool:
    """Whether a container of the pod ended before."""
    return any(status["restartCount"] for status in pod["status"].get("containerStatuses", []))


def is_ready(pod: Manifest) -> bool:
    """Whether the pod has the condition Ready."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def said_by(answer: str) -> str:
    """Return the message of an API server's error."""
    return str(json.loads(answer)["message"])
