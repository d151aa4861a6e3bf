"""Bench of the operator, on a kind cluster with headrace installed by its chart.

The times and authors of writes come from the API server's audit log, whose times have microseconds and are those of
this machine. The node is unschedulable while a thousand resources exist: their fetches wait, so that the operator and
the API server are measured and not the kubelet. `bench_wakes` measures cold starts from end to end, and
`images/build.py --sizes` measures the sizes of images.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "e2e")]  # the cluster and its installation are those of the suite

import bench_wakes
from bars import bar, environment, percentile, spread
from cluster import Cluster, run
from cluster_bench import complete, reason, until, wait_idle
from cluster_world import EXAMPLE, ClusterWorld, Site, tenant
from installation import built_images
from kube import Kube
from release import NAMESPACE, Release

NAME = "headrace-bench"
PORT = 18090
MODELS = 1000
WAKES = 15
STATUS_WRITES = 8
"""Limit of status writes during a cold start, because each is sent to all watchers."""
CHANGES = 20
STOPPED_SECONDS = 30
QUIET_PERCENT = 10
"""Percent of one core for a thousand idle resources: heartbeats, a Lease, restarted watches."""
CHILDREN = ("deployments", "jobs", "services", "serviceaccounts", "networkpolicies")
LABEL = "headrace.dev/component"
OPERATOR = re.compile(r"^headrace-operator/\S+ \((?P<pod>[^)]+)\)")


@dataclass(frozen=True)
class Write:
    """One write of an operator."""

    at: float
    """Unix time at which the API server received it."""
    pod: str
    kind: str
    name: str
    verb: str


def writes(cluster: Cluster, since: float) -> Iterator[Write]:
    """Yield the operators' writes since `since`, without those of the Lease."""
    for line in cluster.audit_log.read_text(errors="replace").splitlines():
        if '"headrace-operator/' not in line:
            continue
        try:
            event = json.loads(line)
        except ValueError:
            continue  # it is being written
        sender, target = OPERATOR.match(event.get("userAgent", "")), event.get("objectRef", {})
        at = datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp()
        if sender is not None and target.get("resource") != "leases" and at >= since:
            yield Write(at, sender["pod"], target.get("resource", ""), target.get("name", ""), event["verb"])


def resource(number: int) -> dict[str, Any]:
    """Return one of the thousand resources."""
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": f"m{number}"},
        "spec": {**EXAMPLE["spec"], "model": {"source": EXAMPLE["spec"]["model"]["source"]}},
    }


def leader(site: Site) -> str:
    """Return the name of the leading operator's pod."""
    holder = site.kube.get("leases", NAMESPACE, "headrace-operator")["spec"]["holderIdentity"]
    names = [pod["metadata"]["name"] for pod in site.release.pods("operator")]
    return next((name for name in names if holder.startswith(name)), "")


def process_figures(site: Site, name: str) -> list[float]:
    """Return the value of a metric of each operator's process."""
    figures = []
    for pod in site.release.pods("operator"):
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}:8081/proxy/metrics"
        status, text = site.kube.request("GET", path)
        assert status == 200, text
        found = re.search(rf"^{name} (\S+)", text, re.MULTILINE)
        assert found is not None
        figures.append(float(found[1]))
    return figures


def wakes(site: Site, world: ClusterWorld) -> None:
    """Measure requests at zero replicas: time to the Deployment's patch and to the first token, and status writes."""
    world.apply({**EXAMPLE, "spec": {**EXAMPLE["spec"], "scaling": {"minReplicas": 0, "idleTimeoutSeconds": 1}}})
    decided, first, status_writes = [], [], []
    assert site.cluster is not None
    for _ in range(WAKES):
        wait_idle(world, "smollm2")
        answer = complete(world, EXAMPLE["spec"]["model"]["name"], stream=True)
        patched = min(w.at for w in writes(site.cluster, answer.sent) if w.kind == "deployments" and w.verb == "patch")
        decided.append((patched - answer.sent) * 1000)
        first.append(answer.arrived - answer.sent)
        until(lambda: reason(world, "smollm2") in ("Running", "Idle"), "the status is Running")
        status_writes.append(sum(w.kind == "modeldeployments" for w in writes(site.cluster, answer.sent)))
    world.delete("smollm2")
    spread("request at zero to the Deployment's patch", decided, "ms")
    spread("request at zero to first token", first, "s")
    bar("scale-decision-p50", statistics.median(decided), 15, "ms")
    bar("scale-decision-p95", percentile(decided, 95), 30, "ms")
    bar("writes-per-wake", max(status_writes), STATUS_WRITES, "")


def thousand(site: Site, world: ClusterWorld) -> None:
    """Create all resources at once; measure the time until all are reconciled, and the operator's memory."""
    kube, namespace = site.kube, world.namespace
    path = f"/apis/headrace.dev/v1alpha1/namespaces/{namespace}/modeldeployments"
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda number: kube.request("POST", path, resource(number))[0], range(MODELS)))
    assert set(statuses) == {201}, set(statuses)
    print(f"{MODELS} resources created in {time.monotonic() - began:.0f} s")
    # Each check lists all objects: a shorter interval would add load of the bench itself.
    until(lambda: settled(kube, namespace), "every resource is reconciled", pause=5.0)
    seconds = time.monotonic() - began
    counts = {kind: len(kube.items(kind, namespace, "app.kubernetes.io/managed-by=headrace")) for kind in CHILDREN}
    print("children:", ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    assert min(counts.values()) >= MODELS, counts
    bar("thousand-reconciled", seconds, 120, "s")
    bar("operator-rss", max(process_figures(site, "process_resident_memory_bytes")) / 1e6, 150, "MB")


def settled(kube: Kube, namespace: str) -> bool:
    """Whether every resource has a status of its generation, and all children."""
    for item in kube.items("modeldeployments", namespace):
        if item.get("status", {}).get("observedGeneration") != item["metadata"]["generation"]:
            return False
    return all(len(kube.items(kind, namespace, "app.kubernetes.io/managed-by=headrace")) >= MODELS for kind in CHILDREN)


def quiet(site: Site, cluster: Cluster, seconds: float) -> None:
    """Measure writes and CPU time while nothing changes."""
    until(lambda: not list(writes(cluster, time.time() - 10)), "the operators are idle", pause=2.0)
    since, before = time.time(), process_figures(site, "process_cpu_seconds_total")
    time.sleep(seconds)
    after = process_figures(site, "process_cpu_seconds_total")
    assert all(now >= then for now, then in zip(after, before, strict=True)), "an operator was restarted"
    computed = sum(after) - sum(before)
    written = list(writes(cluster, since))
    for write in written[:5]:
        print("  written in quiet:", write)
    bar(f"writes-in-{seconds:.0f}s-of-quiet", len(written), 0, "")
    bar("processor-in-quiet-of-both-operators", 100 * computed / seconds, QUIET_PERCENT, "%")


def reactions(world: ClusterWorld) -> None:
    """Measure the reactions to a manually changed child and to a changed spec, with all resources present."""
    kube, namespace = world.site.kube, world.namespace
    repaired, changed = [], []
    for number in range(CHANGES):
        name = f"m{number}"
        kube.request("PATCH", path("services", namespace, name), {"metadata": {"labels": {LABEL: "by-hand"}}})
        repaired.append(until(partial(is_repaired, kube, namespace, name), "the label is as it was", pause=0.01))
        before = deployments(kube, namespace, name)
        touch(world, number, "changed")
        more = partial(has_more_deployments, kube, namespace, name, before)
        changed.append(until(more, "there is another revision", pause=0.01))
    spread("child changed by hand to repaired", repaired, "s")
    spread("spec changed to children changed", changed, "s")
    bar("repair-p95", percentile(repaired, 95), 1.0, "s")
    bar("spec-change-p95", percentile(changed, 95), 1.0, "s")


def is_repaired(kube: Kube, namespace: str, name: str) -> bool:
    """Whether a Service has its desired label."""
    return bool(kube.get("services", namespace, name)["metadata"]["labels"][LABEL] == "runtime")


def has_more_deployments(kube: Kube, namespace: str, name: str, before: set[str]) -> bool:
    """Whether a resource has a new Deployment."""
    return bool(deployments(kube, namespace, name) - before)


def path(kind: str, namespace: str, name: str) -> str:
    """Return the path of an object."""
    groups = {"modeldeployments": "/apis/headrace.dev/v1alpha1", "services": "/api/v1"}
    return f"{groups[kind]}/namespaces/{namespace}/{kind}/{name}"


def deployments(kube: Kube, namespace: str, name: str) -> set[str]:
    """Return the names of a resource's Deployments."""
    found = kube.items("deployments", namespace, f"headrace.dev/model-deployment={name}")
    return {item["metadata"]["name"] for item in found}


def touch(world: ClusterWorld, number: int, value: str) -> None:
    """Change a spec, so that the leader must write."""
    spec = {"spec": {"template": {"env": [{"name": "TOUCHED", "value": value}]}}}
    world.site.kube.request("PATCH", path("modeldeployments", world.namespace, f"m{number}"), spec)


def leadership(world: ClusterWorld) -> None:
    """Measure the takeover after the leader is killed, and the writes of a leader that was stopped for a while."""
    site, cluster = world.site, world.site.cluster
    assert cluster is not None
    old = leader(site)
    pod = next(p for p in site.release.pods("operator") if p["metadata"]["name"] == old)
    killed = time.time()
    site.kill_container(NAMESPACE, pod)
    touch(world, 100, "killed")
    until(lambda: any(w.pod != old for w in writes(cluster, killed)), "the other replica writes")
    first = min(w.at for w in writes(cluster, killed) if w.pod != old)
    bar("takeover", first - killed, 15, "s")

    until(lambda: all(map(running, site.release.pods("operator"))), "both replicas run")
    old = leader(site)
    signal(site, old, "STOP")
    stopped = time.time()
    touch(world, 101, "stopped")
    until(lambda: any(w.pod != old for w in writes(cluster, stopped)), "the other replica writes")
    successor = min(w.at for w in writes(cluster, stopped) if w.pod != old)
    time.sleep(max(0.0, stopped + STOPPED_SECONDS - time.time()))
    signal(site, old, "CONT")
    for number in range(102, 112):
        touch(world, number, "continued")
    until(lambda: not list(writes(cluster, time.time() - 5)), "the state has converged", pause=1.0)
    late = [w for w in writes(cluster, successor) if w.pod == old]
    bar("writes-of-the-stopped-leader", len(late), 1, "")


def running(pod: dict[str, Any]) -> bool:
    """Whether a pod's container runs."""
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return bool(statuses) and statuses[0].get("ready", False)


def signal(site: Site, pod: str, name: str) -> None:
    """Send a signal to a pod's process."""
    manifest = site.kube.get("pods", NAMESPACE, pod)
    container = manifest["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    node = manifest["spec"]["nodeName"]
    tasks = run("docker", "exec", node, "ctr", "-n", "k8s.io", "tasks", "ls")
    pid = next(line.split()[1] for line in tasks.splitlines() if line.startswith(container))
    run("docker", "exec", node, "kill", f"-{name}", pid)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quiet-seconds", type=float, default=300.0)
    parser.add_argument("--keep", action="store_true", help="keep the cluster")
    given = parser.parse_args()
    environment()
    controllers = {"kube-api-qps": "200", "kube-api-burst": "400"}  # the default of 20 a second would limit the result
    cluster = Cluster(NAME, ports={PORT: 30080}, audit=True, controller_manager=controllers)
    images = built_images()
    try:
        cluster.create()
        cluster.load(list(images.values()))
        kube = Kube(cluster.kubeconfig)
        site = Site(kube, Release(kube, images), f"http://127.0.0.1:{PORT}", cluster)
        site.release.install()
        site.release.wait()
        with tenant(site, "bench-wakes") as world:
            wakes(site, world)
        bench_wakes.measure(site)
        cluster.close(cluster.node_names[0])
        with tenant(site, "bench-thousand") as world:
            thousand(site, world)
            quiet(site, cluster, given.quiet_seconds)
            reactions(world)
            cluster.open(cluster.node_names[0])  # otherwise a killed operator could not be scheduled
            cluster.close(cluster.node_names[0])
            leadership(world)
    finally:
        if not given.keep:
            cluster.delete()


if __name__ == "__main__":
    main()
