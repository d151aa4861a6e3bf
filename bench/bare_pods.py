"""Start time of plain pods of the same image on the same node, the baseline of cold starts."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent / folder) for folder in ("tests", "e2e")]

from cluster import run
from cluster_bench import Manifest, Watch, is_named, runs, until
from cluster_world import ClusterWorld
from kube import Kube, path_of

from headrace.kinds.modeldeployment.manifests.common import RESTRICTED

TICKS = 100
"""Ticks per second of the start times in /proc."""
PROBER = r"""
while read -r host port path; do
  until { printf 'GET %s HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n' "$path" >&3; read -r -t 1 line <&3
          [[ $line == 'HTTP/1.1 200'* ]]; } 3<>"/dev/tcp/$host/$port"; do
    read -r -t 0.004  # always times out: a pause that forks no process
  done 2>/dev/null
  echo "$EPOCHREALTIME"
done
"""
"""Requests a path until the response is 200, and prints the time."""

_numbers = count()


@dataclass(frozen=True, slots=True)
class Started:
    """Start of a pod: the time of the request, and the time of each stage."""

    began: float
    stages: dict[str, float]


class Prober:
    """A shell in the node's container, which reaches pods as the kubelet does and starts no process per request."""

    def __init__(self, node: str) -> None:
        command = ["docker", "exec", "-i", node, "bash", "-c", PROBER]
        self._shell = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def first_200(self, host: str, port: int, path: str) -> float:
        """Request the path every few milliseconds until the response is 200; return its time."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{host} {port} {path}\n")
        self._shell.stdin.flush()
        return float(self._shell.stdout.readline())

    def close(self) -> None:
        """End the shell."""
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait(timeout=10)


def serving(world: ClusterWorld, pods: Watch, prober: Prober, container: Manifest) -> Started:
    """Start a pod that serves; it ends with the first 200.

    The time starts with the request that creates the pod. The address comes from a watch on the API server, as for any
    client that the pod does not notify, and is probed every few milliseconds from then on.
    """
    with _pod(world, container) as (name, began):
        event = pods.first(lambda pod: is_named(name)(pod) and pod.get("status", {}).get("podIP"), began)
        answered = prober.first_200(event.object["status"]["podIP"], 8000, "/v1/models")
        pod = pods.first(lambda pod: is_named(name)(pod) and runs(pod), began).object
        return Started(began, {**seen(world, pods, pod, began), "the API shows its address": event.at, "200": answered})


def ending(world: ClusterWorld, pods: Watch, image: str) -> Started:
    """Start a pod that exits at once, like `true`, and prints when it ran."""
    with _pod(world, {"image": image, "command": ["date", "+ran %s.%N"]}) as (name, began):
        ended = pods.first(lambda pod: is_named(name)(pod) and pod["status"].get("phase") == "Succeeded", began)
        ran = float(log(world.site.kube, world.namespace, name).partition("ran ")[2].split()[0])
        return Started(began, {"it ran": ran, "the API shows that it has run": ended.at})


@contextmanager
def _pod(world: ClusterWorld, container: Manifest) -> Iterator[tuple[str, float]]:
    """Create a plain pod with its command and the required security context, and delete it afterwards."""
    kube, name = world.site.kube, f"bare-{next(_numbers)}"
    spec = {"restartPolicy": "Never", "containers": [{"name": "bare", "securityContext": RESTRICTED, **container}]}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    path = path_of("pods", world.namespace)
    began = time.time()
    status, answer = kube.request("POST", path, manifest)
    assert status == 201, answer
    yield name, began
    kube.delete("pods", world.namespace, name)
    until(partial(_is_gone, kube, world.namespace, name), "the pod is gone", pause=0.2)


def _is_gone(kube: Kube, namespace: str, name: str) -> bool:
    return kube.find("pods", namespace, name) is None


def seen(world: ClusterWorld, pods: Watch, pod: Manifest, since: float) -> dict[str, float]:
    """Return the times of a running pod's stages, from the API server's watch, its process and its log."""
    is_pod = is_named(pod["metadata"]["name"])
    stages = {
        "pod created": pods.first(is_pod, since).at,
        "pod scheduled": pods.first(lambda found: is_pod(found) and found["spec"].get("nodeName"), since).at,
        "process started": _process_start(pod),
    }
    for line in log(world.site.kube, world.namespace, pod["metadata"]["name"]).splitlines():
        stamp, _, text = line.partition(" ")
        stage = next((stage for words, stage in _LOGGED.items() if words in text), None)
        if stage is not None:
            stages.setdefault(stage, datetime.fromisoformat(stamp).timestamp())
    stages["the API shows that it runs"] = pods.first(lambda found: is_pod(found) and runs(found), since).at
    return stages


_LOGGED = {"is ready": "ready, by its log", "has acknowledged Ready": "a gateway routes to it"}


def log(kube: Kube, namespace: str, pod: str) -> str:
    """Return a pod's log, each line with the time at which the container runtime received it."""
    status, text = kube.request("GET", f"{path_of('pods', namespace, pod)}/log?timestamps=true")
    assert status == 200, text
    return text


def _process_start(pod: Manifest) -> float:
    """Return when the kernel started the first process of a pod's container, to 10 ms."""
    container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    script = f"cat /proc/$(ctr -n k8s.io tasks ls | awk '/^{container}/ {{print $2}}')/stat"
    stat = run("docker", "exec", pod["spec"]["nodeName"], "bash", "-c", script)
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + int(stat.rpartition(")")[2].split()[19]) / TICKS
