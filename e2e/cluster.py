"""A kind cluster with a fixed name, created for a run and always deleted after it.

`kind` has no state except containers, so a cluster that a crashed run left behind is found by its name and deleted
before the next one is created. A cluster writes its kubeconfig, its fetched models (a cache for the next one) and,
if enabled, the API server's audit log into `.cache/`.

All nodes mount the same directories for models and for the broker, in place of volumes that follow a pod to any node.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from progress import step

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".cache"
NAME = "headrace-e2e"
TOOLS = ("docker", "kind", "kubectl", "helm")
MODELS = CACHE / "models"
MODELS_IN_NODE = "/models-host"
BROKER_IN_NODE = "/broker-host"
OUR_USER = 65532
"""User of all containers; a hostPath volume does not support fsGroup, so this user must own the directory."""
GATEWAY_PORT = 18080
GATEWAY_NODE_PORT = 30080
CREATE_SECONDS = 300
LOAD_SECONDS = 600
MOST_SAID = 4000
"""Characters of a failed command's output in the error, because kubeadm prints thousands of lines."""

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None"},
    ],
}
"""All writes with their user and user agent, so that a bench can distinguish the writes of two leaders."""


class CannotRun(Exception):
    """A requirement is missing on this machine; the message names it in one line."""


def require_tools(tools: Sequence[str] = TOOLS) -> None:
    """Raise CannotRun with the missing tools, if any."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise CannotRun(f"not in PATH: {', '.join(missing)}; the end-to-end suite needs Docker, kind, kubectl and helm")
    if "docker" in tools and subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
        raise CannotRun("the Docker engine does not respond: start it, or see `docker version`")


def run(*command: str, timeout: float = 120, text: str | None = None) -> str:
    """Run a command that must succeed, and return its output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, input=text, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr)[-MOST_SAID:]
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {said}")
    return done.stdout


@dataclass(frozen=True)
class Cluster:
    """The configuration of a cluster, which `create` creates."""

    name: str = NAME
    nodes: int = 1
    ports: Mapping[int, int] = field(default_factory=lambda: {GATEWAY_PORT: GATEWAY_NODE_PORT})
    """Port of 127.0.0.1 -> node port."""
    audit: bool = False
    controller_manager: Mapping[str, str] = field(default_factory=dict)
    """Extra arguments of the controller manager, e.g. `kube-api-qps`."""

    @property
    def kubeconfig(self) -> Path:
        """Path of the kubeconfig."""
        return CACHE / f"{self.name}.kubeconfig"

    @property
    def audit_log(self) -> Path:
        """Path of the API server's audit log, if enabled."""
        return CACHE / self.name / "audit" / "audit.log"

    @property
    def broker_store(self) -> Path:
        """Directory of the broker's data, which lives as long as the cluster."""
        return CACHE / self.name / "broker"

    @property
    def node_names(self) -> list[str]:
        """The containers that are nodes; the control plane comes first."""
        return sorted(run("kind", "get", "nodes", "--name", self.name).split())

    def exists(self) -> bool:
        """Whether a cluster of this name exists."""
        return self.name in run("kind", "get", "clusters").split()

    def create(self) -> None:
        """Recreate the cluster and wait until its nodes are ready."""
        self.delete()
        make_writable(MODELS)
        shutil.rmtree(self.broker_store, ignore_errors=True)
        make_writable(self.broker_store)
        if self.audit:
            self._prepare_audit()
        command = ["kind", "create", "cluster", "--name", self.name, "--config", "-", "--wait", "180s"]
        command += ["--kubeconfig", str(self.kubeconfig)]
        if image := os.environ.get("HEADRACE_KIND_IMAGE"):
            command += ["--image", image]
        with step(f"creating the cluster {self.name} of {self.nodes} node(s)"):
            run(*command, timeout=CREATE_SECONDS, text=yaml.safe_dump(self.configuration()))
        if self.nodes > 1:  # with workers, kind taints the control plane; all nodes should be equal
            self._kubectl("taint", "node", self.node_names[0], "node-role.kubernetes.io/control-plane:NoSchedule-")

    def close(self, node: str) -> None:
        """Cordon a node."""
        self._kubectl("cordon", node)

    def open(self, node: str) -> None:
        """Uncordon a node."""
        self._kubectl("uncordon", node)

    def delete(self) -> None:
        """Delete the cluster, if it exists, and its kubeconfig."""
        run("kind", "delete", "cluster", "--name", self.name, "--kubeconfig", str(self.kubeconfig))
        self.kubeconfig.unlink(missing_ok=True)

    def load(self, images: Sequence[str], nodes: Sequence[str] = ()) -> None:
        """Load missing images into nodes (default: all)."""
        for node in nodes or self.node_names:
            present = self._images_of(node)
            if missing := [image for image in images if image not in present]:
                with step(f"loading {', '.join(missing)} into {node}"):
                    # One command for all: the layers that they share are written and read once.
                    command = ("kind", "load", "docker-image", *missing, "--name", self.name, "--nodes", node)
                    run(*command, timeout=LOAD_SECONDS)

    def tag(self, image: str, other: str) -> None:
        """Tag an image with another name on all nodes that have it."""
        for node in self.node_names:
            if image in self._images_of(node):
                names = (f"docker.io/library/{name}" for name in (image, other))
                run("docker", "exec", node, "ctr", "-n", "k8s.io", "images", "tag", "--force", *names)

    def kill_container(self, node: str, container: str) -> None:
        """`kill -9` the process of a container, by the id from its status."""
        running = run("docker", "exec", node, "ctr", "-n", "k8s.io", "tasks", "ls")
        pids = [line.split()[1] for line in running.splitlines() if line.startswith(container)]
        if not pids:
            raise RuntimeError(f"no container {container} runs on {node}: {running}")
        run("docker", "exec", node, "kill", "-9", pids[0])

    def configuration(self) -> dict[str, Any]:
        """Return kind's configuration."""
        mounts = [
            {"hostPath": str(MODELS), "containerPath": MODELS_IN_NODE},
            {"hostPath": str(self.broker_store), "containerPath": BROKER_IN_NODE},
        ]
        control_plane: dict[str, Any] = {
            "role": "control-plane",
            "extraMounts": list(mounts),
            "extraPortMappings": [
                {"hostPort": host, "containerPort": node, "listenAddress": "127.0.0.1"}
                for host, node in self.ports.items()
            ],
            "kubeadmConfigPatches": [yaml.safe_dump(self._kubeadm())],
        }
        if self.audit:
            control_plane["extraMounts"].append(
                {"hostPath": str(CACHE / self.name / "audit"), "containerPath": "/audit"}
            )
        workers = [{"role": "worker", "extraMounts": mounts} for _ in range(self.nodes - 1)]
        return {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": [control_plane, *workers]}

    def _kubectl(self, *words: str) -> str:
        return run("kubectl", "--kubeconfig", str(self.kubeconfig), *words)

    def _kubeadm(self) -> dict[str, Any]:
        patch: dict[str, Any] = {"kind": "ClusterConfiguration"}
        if self.controller_manager:
            patch["controllerManager"] = {"extraArgs": dict(self.controller_manager)}
        if self.audit:
            patch["apiServer"] = {
                "extraArgs": {"audit-policy-file": "/audit/policy.yaml", "audit-log-path": "/audit/audit.log"},
                "extraVolumes": [{"name": "audit", "hostPath": "/audit", "mountPath": "/audit", "readOnly": False}],
            }
        return patch

    def _prepare_audit(self) -> None:
        self.audit_log.parent.mkdir(parents=True, exist_ok=True)
        self.audit_log.unlink(missing_ok=True)
        (self.audit_log.parent / "policy.yaml").write_text(yaml.safe_dump(AUDIT_POLICY))

    def _images_of(self, node: str) -> set[str]:
        listed = run("docker", "exec", node, "ctr", "-n", "k8s.io", "images", "ls", "-q").split()
        return {image.removeprefix("docker.io/").removeprefix("library/") for image in listed}


def make_writable(directory: Path) -> None:
    """Create a directory that the containers' user can write to: owned by it (as root), else writable for all."""
    directory.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(directory, OUR_USER, OUR_USER)
    else:
        directory.chmod(0o777)
