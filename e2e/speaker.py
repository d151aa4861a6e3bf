"""A pod of a tenant that runs a Python program with its namespace's NATS login, which any tenant can start."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping

from behaviours.behaviours_world import until
from cluster_world import ClusterWorld
from kube import Manifest
from release import NAME, NAMESPACE


@contextlib.contextmanager
def speaker(world: ClusterWorld, name: str, program: str, arguments: Mapping[str, object]) -> Iterator[None]:
    """Run the program with its arguments as JSON in `ARGUMENTS`; the context is entered after its first output."""
    kube = world.site.kube
    kube.apply(_pod(world, name, program, arguments))
    try:
        until(lambda: bool(said(world, name)), f"{name} has begun", world.patience)
        yield
    finally:
        kube.force_delete(world.namespace, name)


def said(world: ClusterWorld, name: str) -> str:
    """Return the program's output."""
    return world.site.kube.try_kubectl("logs", name, "-n", world.namespace).stdout


def _pod(world: ClusterWorld, name: str, program: str, arguments: Mapping[str, object]) -> Manifest:
    secret = {"name": "headrace-nats"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": world.namespace},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": name,
                    "image": world.site.release.images["fetch"],
                    "imagePullPolicy": world.site.release.pull_policy,
                    "command": ["python", "-u", "-c", program],
                    "env": [
                        {"name": "NATS", "value": f"nats://{NAME}-nats.{NAMESPACE}.svc:4222"},
                        {"name": "USER", "valueFrom": {"secretKeyRef": {**secret, "key": "user"}}},
                        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {**secret, "key": "password"}}},
                        {"name": "ARGUMENTS", "value": json.dumps(arguments)},
                    ],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                        "runAsNonRoot": True,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                }
            ],
        },
    }
