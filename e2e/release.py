"""The Helm release of headrace in a cluster: installation, upgrade, rollback and removal."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import yaml
from behaviours.behaviours_world import until
from cluster import BROKER_IN_NODE, GATEWAY_NODE_PORT, ROOT, run
from kube import SECONDS, Kube, Manifest
from progress import step

CHART = ROOT / "charts/headrace"
NAME = "headrace"
NAMESPACE = "headrace-system"
STORAGE_CLASS = "headrace-e2e"
MODELS_CLAIM = "headrace-models"
BROKER_CLAIM = f"data-{NAME}-nats-0"
REPOSITORIES = {
    component: image["repository"]
    for component, image in yaml.safe_load((CHART / "values.yaml").read_text())["images"].items()
    if isinstance(image, dict) and image["repository"]
}
"""Repository of each image under the chart's `images`, except those without a default."""
COMPONENTS = tuple(REPOSITORIES)
HELM_SECONDS = 240
PASSED_ON = {"PIP_INDEX_URL": "PIP_INDEX_URL", "HTTPS_PROXY": "HTTPS_PROXY", "NO_PROXY": "NO_PROXY"}
"""Environment variables of this machine for outgoing connections, if set, which fetch pods need too."""
SMALL = {"requests": {"cpu": "20m", "memory": "64Mi"}}
"""Small requests of all components, because a cluster and the test suite may share two cores."""

Images = Mapping[str, str]
"""Component -> `repository:tag`."""


@dataclass(frozen=True)
class Release:
    """A Helm release, which may not exist yet."""

    kube: Kube
    images: Images
    pull_policy: str = "Never"
    """Images are loaded into the nodes; pulling could test other ones."""
    storage_class: str = STORAGE_CLASS

    def values(self, images: Images | None = None) -> dict[str, Any]:
        """Return the chart's values."""
        named = {
            component: dict(zip(("repository", "tag"), image.rsplit(":", 1), strict=True))
            for component, image in (images or self.images).items()
        }
        return {
            "images": {"pullPolicy": self.pull_policy, **named},
            "models": {"storageClass": self.storage_class},
            "fetch": {"env": {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}},
            "operator": {"resources": SMALL},
            "nats": {"resources": SMALL, "persistence": {"storageClass": self.storage_class}},
            "gateway": {
                "resources": SMALL,
                "service": {"type": "NodePort", "nodePort": GATEWAY_NODE_PORT},
            },
        }

    def install(self, changes: Mapping[str, Any] | None = None) -> None:
        """Install or upgrade the release, and wait until it runs."""
        values = _merged(self.values(), changes or {})
        if self.storage_class == STORAGE_CLASS:
            self.kube.apply(storage_class())
            renew_volume(self.kube, volume(NAMESPACE, BROKER_CLAIM, BROKER_IN_NODE))
        with step("installing headrace", self._running):
            self._helm(
                *("upgrade", "--install", NAME, str(CHART), "--create-namespace", "--wait", "-f", "-"),
                text=json.dumps(values),
            )

    def test(self) -> str:
        """Run the chart's own tests."""
        return self._helm("test", NAME)

    def rollback(self) -> None:
        """Roll back to the previous revision."""
        self._helm("rollback", NAME, "--wait")

    def uninstall(self) -> None:
        """Uninstall, and wait for it."""
        self._helm("uninstall", NAME, "--wait")

    def wait(self) -> None:
        """Wait until every component is available."""
        for component in ("operator", "gateway"):
            self.kube.wait_available("deployments", NAMESPACE, f"{NAME}-{component}")
        self.kube.wait_available("statefulsets", NAMESPACE, f"{NAME}-nats")

    def pods(self, component: str) -> list[Manifest]:
        """Return the pods of a component that are not terminating."""
        selector = f"app.kubernetes.io/instance={NAME},app.kubernetes.io/component={component}"
        pods = self.kube.items("pods", NAMESPACE, selector)
        return [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]

    def _running(self) -> str:
        """Return the number of ready pods, with kubectl."""
        ready = ("-o", "jsonpath={range .items[*]}{.status.conditions[?(@.type=='Ready')].status} {end}")
        listed = self.kube.try_kubectl("get", "pods", "-n", NAMESPACE, *ready).stdout.split()
        return f"{listed.count('True')} of {len(listed)} pods ready"

    def objects(self) -> list[str]:
        """Return all objects with a label of headrace, in any namespace, as `kind/namespace/name`."""
        ours = (f"app.kubernetes.io/instance={NAME}", "app.kubernetes.io/managed-by=headrace")
        return sorted(
            {
                f"{path.rpartition('/')[2]}/{item['metadata'].get('namespace', '')}/{item['metadata']['name']}"
                for path in self.kube.collections()
                for selector in ours
                for item in self.kube.collect(path, selector)
            }
        )

    def _helm(self, *words: str, text: str | None = None) -> str:
        command = ["helm", "--kubeconfig", str(self.kube.kubeconfig), "-n", NAMESPACE, *words]
        return run(*command, "--timeout", f"{HELM_SECONDS}s", text=text, timeout=HELM_SECONDS + 30)


def storage_class() -> Manifest:
    """Return the StorageClass of the suite's volumes, without a provisioner: one volume is created for each claim."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE_CLASS},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "Immediate",
    }


def volume(namespace: str, claim: str, path: str) -> Manifest:
    """Return the volume for a claim: a directory that all nodes mount."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-{claim}"},
        "spec": {
            "storageClassName": STORAGE_CLASS,
            "capacity": {"storage": "20Gi"},
            "accessModes": ["ReadWriteMany", "ReadOnlyMany", "ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": namespace, "name": claim},
            "hostPath": {"path": path, "type": "Directory"},
        },
    }


def renew_volume(kube: Kube, wanted: Manifest) -> None:
    """Create a volume; recreate one that was bound to a deleted claim, because it would never be bound again."""
    name, claim = wanted["metadata"]["name"], wanted["spec"]["claimRef"]
    found = kube.find("persistentvolumes", None, name)
    if found is not None:
        bound = found["spec"]["claimRef"].get("uid")
        there = kube.find("persistentvolumeclaims", claim["namespace"], claim["name"])
        if bound is None or (there is not None and there["metadata"]["uid"] == bound):
            return
        kube.delete("persistentvolumes", None, name)
        until(lambda: kube.find("persistentvolumes", None, name) is None, f"the volume {name} is gone", SECONDS)
    kube.apply(wanted)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = deepcopy(dict(base))
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if nested else value
    return merged
