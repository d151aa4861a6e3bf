"""Access of the tests to a cluster, with plain manifests.

Reads use the official client over a persistent connection, because tests poll often and a `kubectl` process per read
would cost more than the tested operation. Actions of users use `kubectl`.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import kubernetes.client
import kubernetes.config
from behaviours.behaviours_world import until
from cluster import run

Manifest = dict[str, Any]
SECONDS = 120.0
"""Default timeout of waits; not a bound that headrace guarantees."""
GROUPS = {
    "modeldeployments": "/apis/headrace.dev/v1alpha1",
    "greetings": "/apis/headrace.dev/v1alpha1",
    "deployments": "/apis/apps/v1",
    "statefulsets": "/apis/apps/v1",
    "jobs": "/apis/batch/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
    "poddisruptionbudgets": "/apis/policy/v1",
    "leases": "/apis/coordination.k8s.io/v1",
    "clusterroles": "/apis/rbac.authorization.k8s.io/v1",
    "clusterrolebindings": "/apis/rbac.authorization.k8s.io/v1",
    "priorityclasses": "/apis/scheduling.k8s.io/v1",
    "customresourcedefinitions": "/apis/apiextensions.k8s.io/v1",
}
"""The API group of each kind (by plural) that is not in the core group."""
MOST_DUMPED = 60_000


@dataclass(frozen=True)
class Kube:
    """A cluster, with the credentials of a kubeconfig or with a token."""

    kubeconfig: Path
    token: str | None = field(default=None, repr=False)

    def kubectl(self, *words: str, text: str | None = None, seconds: float = SECONDS) -> str:
        """Run kubectl, which must succeed."""
        return run("kubectl", "--kubeconfig", str(self.kubeconfig), *words, text=text, timeout=seconds)

    def try_kubectl(self, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl, which may fail."""
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), *words]
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=SECONDS, check=False)

    def request(self, method: str, path: str, body: Manifest | None = None) -> tuple[int, str]:
        """Send a request to the API server; return the status and the body."""
        headers = {"Accept": "application/json, */*", "Content-Type": "application/json"}
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        response = self._client.rest_client.pool_manager.request(
            method,
            self._client.configuration.host + path,
            headers=headers,
            body=None if body is None else json.dumps(body),
            timeout=SECONDS,
        )
        return response.status, response.data.decode()

    def find(self, kind: str, namespace: str | None, name: str) -> Manifest | None:
        """Return an object, or None."""
        status, answer = self.request("GET", path_of(kind, namespace, name))
        assert status in (200, 404), answer
        found: Manifest | None = json.loads(answer) if status == 200 else None
        return found

    def get(self, kind: str, namespace: str | None, name: str) -> Manifest:
        """Return an existing object."""
        found = self.find(kind, namespace, name)
        assert found is not None, f"there is no {name} among the {kind} of {namespace}"
        return found

    def items(self, kind: str, namespace: str | None = None, selector: str = "") -> list[Manifest]:
        """Return the objects of a kind in one namespace or in all."""
        return self.collect(path_of(kind, namespace), selector)

    def collect(self, path: str, selector: str = "") -> list[Manifest]:
        """Return the objects of a collection, by its path."""
        found: list[Manifest] = self._read(f"{path}?labelSelector={selector}")["items"]
        return found

    def collections(self) -> list[str]:
        """Return the paths of all collections of kinds that can be listed and deleted."""
        groups = [group["preferredVersion"]["groupVersion"] for group in self._read("/apis")["groups"]]
        return [
            f"{path}/{resource['name']}"
            for path in ("/api/v1", *(f"/apis/{version}" for version in groups))
            for resource in self._read(path)["resources"]
            if {"list", "delete"} <= set(resource["verbs"])
        ]

    def _read(self, path: str) -> Manifest:
        status, answer = self.request("GET", path)
        assert status == 200, answer
        found: Manifest = json.loads(answer)
        return found

    def apply(self, *manifests: Manifest) -> str:
        """Apply manifests with kubectl."""
        return self.kubectl("apply", "-f", "-", text="\n---\n".join(json.dumps(manifest) for manifest in manifests))

    def delete(self, kind: str, namespace: str | None, name: str) -> None:
        """Delete an object, if it exists, without waiting."""
        status, answer = self.request("DELETE", path_of(kind, namespace, name))
        assert status in (200, 202, 404), answer

    def force_delete(self, namespace: str, pod: str) -> None:
        """Delete a pod without a grace period, so that its name is free at once."""
        body = {"gracePeriodSeconds": 0}
        status, answer = self.request("DELETE", path_of("pods", namespace, pod), body)
        assert status in (200, 404), answer

    def available(self, kind: str, namespace: str, name: str) -> bool:
        """Whether a Deployment or StatefulSet has all the replicas of its newest template, ready, and no others."""
        found = self.get(kind, namespace, name)
        status, wanted = found.get("status", {}), found["spec"].get("replicas", 1)
        counts = [status.get(field, 0) for field in ("replicas", "readyReplicas", "updatedReplicas")]
        return status.get("observedGeneration") == found["metadata"]["generation"] and counts == [wanted] * 3

    def wait_available(self, kind: str, namespace: str, name: str) -> None:
        """Wait for `available`."""
        until(
            lambda: self.available(kind, namespace, name),
            lambda: f"{kind}/{name} is available: {self.get(kind, namespace, name).get('status')}",
            SECONDS,
        )

    def as_service_account(self, namespace: str, name: str) -> Kube:
        """Return the same cluster with the credentials of a service account."""
        return Kube(self.kubeconfig, token=self.kubectl("create", "token", name, "-n", namespace).strip())

    def dump(self, namespaces: list[str]) -> str:
        """Return the state of namespaces for the diagnosis of a failure. Never raises."""
        parts = []
        for namespace in namespaces:
            here = ("-n", namespace)
            listed = "pods,deployments,statefulsets,jobs,pvc,modeldeployments.headrace.dev"
            parts.append(self._said("get", listed, *here, "-o", "wide"))
            parts.append(self._said("get", "modeldeployments.headrace.dev", *here, "-o", "yaml"))
            parts.append(self._said("get", "events", *here, "--sort-by=.lastTimestamp"))
            for pod in self._said("get", "pods", *here, "-o", "name").split():
                parts.append(self._said("describe", pod, *here))
                parts.append(self._said("logs", pod, *here, "--all-containers", "--tail=60"))
                parts.append(self._said("logs", pod, *here, "--all-containers", "--tail=30", "--previous"))
        return "\n".join(part for part in parts if part)

    def _said(self, *words: str) -> str:
        try:
            done = self.try_kubectl(*words)
        except (OSError, subprocess.SubprocessError) as error:
            return f"$ kubectl {' '.join(words)}: {error}"
        if done.returncode:
            return "" if "--previous" in words else f"$ kubectl {' '.join(words)}\n{done.stderr}"
        return done.stdout if "name" in words[-1:] else f"$ kubectl {' '.join(words)}\n{done.stdout}"

    @cached_property
    def _client(self) -> Any:
        client = kubernetes.config.new_client_from_config(str(self.kubeconfig))  # type: ignore[no-untyped-call]
        if self.token is None:
            return client
        # Without a client certificate, because an API server would prefer it to the token.
        configuration = kubernetes.client.Configuration()
        configuration.host = client.configuration.host
        configuration.ssl_ca_cert = client.configuration.ssl_ca_cert
        return kubernetes.client.ApiClient(configuration)


def path_of(kind: str, namespace: str | None, name: str | None = None) -> str:
    """Return the path of a kind (by plural), in a namespace or in none, or of one object."""
    path = GROUPS.get(kind, "/api/v1")
    if namespace is not None:
        path += f"/namespaces/{namespace}"
    return f"{path}/{kind}" + ("" if name is None else f"/{name}")
