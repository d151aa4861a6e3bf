"""The node agent as a DaemonSet: its capabilities, its volume in restricted pods, its restarts, and kept weights."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from behaviours.behaviours_traffic import asked, post, short
from behaviours.behaviours_world import SCALING, model, until, wait
from cluster_world import RESTRICTED, SMOLLM2, ClusterWorld, Site, is_ready, tenant
from kube import SECONDS, Kube, Manifest
from release import NAME, NAMESPACE

from headrace.kinds.modeldeployment.manifests.common import RESTRICTED as RESTRICTED_CONTAINER
from headrace.kinds.modeldeployment.manifests.common import UNPRIVILEGED_ID
from headrace.kinds.node_agent import mount_node_agent

pytestmark = pytest.mark.alone

TENANTS = ("e2e-node-a", "e2e-node-b")
BPF, NET_ADMIN = 39, 12
"""Numbers of the capabilities (linux/capability.h)."""
OPEN = (
    "import os, sys; from pathlib import Path; from headrace.store.client import Store;"
    " from headrace.store.keys import ObjectClass as C; store = Store(Path(os.environ['HEADRACE_AGENT_SOCKET']));"
)
PUT = OPEN + " print(store.put(C.WEIGHTS, b'weights' * 100_000).key)"
GET = OPEN + " print(len(store.get(sys.argv[1]).memory))"
MAPPED = (
    "import re; maps = re.split(r'^(?=[0-9a-f]+-[0-9a-f]+ )', open('/proc/1/smaps').read(), flags=re.M);"
    " sums = [sum(int(re.search(field + r': +([0-9]+)', each)[1]) for each in maps if 'memfd:' in each)"
    " for field in ('Rss', 'Pss')]; print(*sums)"
)
"""Prints the kilobytes of shared memory in a process: resident, and its proportional share of them."""
HELD = (
    "from pathlib import Path; from headrace.agent.admin import AdminClient, SOCKET_NAME;"
    " held = AdminClient(Path('/run/headrace-node') / SOCKET_NAME).objects();"
    " print(*sorted(f'{each.tenant}:{each.pinned}' for each in held))"
)
"""Prints the tenants of a node's objects, and whether each is pinned."""
CAPABILITIES = "print(next(line for line in open('/proc/1/status') if line.startswith('CapEff')).split()[1])"


@pytest.fixture(scope="module")
def kept(site: Site) -> Iterator[ClusterWorld]:
    """A tenant with a model that keeps its weights. It exists before the agent is switched on."""
    with tenant(site, "e2e-kept") as world:
        world.apply(keeping())
        yield world


@pytest.fixture(scope="module")
def node(site: Site, kept: ClusterWorld) -> Iterator[Kube]:
    """The cluster with the agent switched on, and a pod with its volume in each of two restricted namespaces."""
    kube = site.kube
    values: dict[str, Any] = {"enabled": True, "store": {"memory": "640Mi"}}
    if site.cluster is not None:  # the second node is cordoned, which a DaemonSet ignores
        site.cluster.load([site.release.images[name] for name in ("node", "runtime")], site.cluster.node_names[1:])
    site.release.install({"node": values})
    wait_for_agent(kube)
    for namespace in TENANTS:
        kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": RESTRICTED}})
        kube.apply(pod_in(namespace, site.release.images["node"]))
    for namespace in TENANTS:
        kube.kubectl("wait", "-n", namespace, "pod/user", "--for=condition=Ready", f"--timeout={SECONDS:.0f}s")
    yield kube
    for namespace in TENANTS:
        kube.kubectl("delete", "namespace", namespace, "--wait=true", seconds=SECONDS * 2)
    kube.kubectl("delete", "mdep", "--all", "-n", kept.namespace)  # no kubelet unmounts the volume of a lost driver
    until(lambda: not kube.items("pods", kept.namespace), "no pod has the volume", SECONDS)
    site.release.install()
    until(lambda: not agents(kube), "the agent is gone", SECONDS)


def keeping(**scaling: Any) -> Manifest:
    return model(SMOLLM2, scaling={**SCALING, "coldStart": {"keep": "Weights"}, **scaling})


def pod_in(namespace: str, image: str) -> Manifest:
    container: Manifest = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", "import signal; signal.sigwait([signal.SIGTERM])"],
        "securityContext": {**RESTRICTED_CONTAINER, "runAsUser": UNPRIVILEGED_ID},
    }
    spec = {"containers": [container], "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 5}
    metadata = {"name": "user", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": mount_node_agent(spec)}


def agents(kube: Kube) -> list[Manifest]:
    return kube.items("pods", NAMESPACE, f"app.kubernetes.io/instance={NAME},app.kubernetes.io/component=node")


def wait_for_agent(kube: Kube) -> None:
    kube.kubectl("rollout", "status", "-n", NAMESPACE, f"daemonset/{NAME}-node", f"--timeout={SECONDS:.0f}s")


def python(kube: Kube, namespace: str, pod: str, code: str, *words: str, container: str = "main") -> str:
    """Run Python in a pod's container; return what it prints."""
    command = ("exec", "-n", namespace, pod, "-c", container, "--", "python", "-c", code, *words)
    return kube.kubectl(*command).strip()


def try_get(kube: Kube, namespace: str, key: str) -> str:
    """Return what a pod says when it gets an object: the size, or the error."""
    done = kube.try_kubectl("exec", "-n", namespace, "user", "--", "python", "-c", GET, key)
    return done.stdout.strip() or done.stderr


def agent_pod(kube: Kube) -> str:
    """Return the agent of the node that the pods are on."""
    node = kube.get("pods", TENANTS[0], "user")["spec"]["nodeName"]
    (pod,) = [one for one in agents(kube) if one["spec"]["nodeName"] == node]
    return str(pod["metadata"]["name"])


def status_of(kube: Kube, pod: str, container: str) -> Any:
    statuses = kube.get("pods", NAMESPACE, pod)["status"]["containerStatuses"]
    return next(one for one in statuses if one["name"] == container)


def cold_start(world: ClusterWorld) -> tuple[str, set[str]]:
    """Wake the model, wait until it is at zero again, and return the answer and the stages of the start."""
    wait(world, "smol", "Idle")
    until(lambda: not world.pods("smol"), "the model is at zero", world.patience)
    before = world.get("smol")["status"].get("lastColdStart")
    status, answer = post(world, "/chat/completions", asked("smol"))
    assert status == 200, answer
    until(lambda: world.get("smol")["status"].get("lastColdStart") != before, "it is in the status", world.patience)
    wait(world, "smol", "Idle")
    stages = world.get("smol")["status"]["lastColdStart"]["stages"]
    return json.loads(answer)["choices"][0]["message"]["content"], {stage["name"] for stage in stages}


def counted(kube: Kube, name: str, namespace: str) -> list[float]:
    """Return the values of a metric of all agents for the weights of a namespace."""
    found = []
    for pod in agents(kube):
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}:8081/proxy/metrics"
        lines = kube.request("GET", path)[1].splitlines()
        labels = f'{name}{{class="weights",tenant="{namespace}"}} '
        found += [float(line.removeprefix(labels)) for line in lines if line.startswith(labels)]
    return found


def test_weights_when_no_agent_then_replica_loads_them(kept: ClusterWorld) -> None:
    answer, stages = cold_start(kept)
    assert "Paris" in answer
    assert {"loading-weights", "first-token"} <= stages
    assert kept.get("smol")["status"]["keep"] == "Nothing"


def test_weights_when_woken_again_then_mapped(kept: ClusterWorld, node: Kube) -> None:
    until(lambda: kept.get("smol")["status"]["keep"] == "Weights", "the operator knows of the agent", SECONDS)
    answer, first = cold_start(kept)
    again, second = cold_start(kept)
    assert answer == again
    assert "storing-weights" in first
    assert {"mapping-weights", "first-token"} <= second
    assert [counted(node, f"headrace_node_store_{name}", kept.namespace) for name in ("objects", "puts_total")] == [
        [1],
        [1],
    ]


def test_weights_when_two_replicas_then_one_copy(kept: ClusterWorld, node: Kube) -> None:
    """Of the pages that both have read, each has half."""
    kept.apply(keeping(minReplicas=2, maxReplicas=2))
    until(lambda: kept.get("smol")["status"]["readyReplicas"] == 2, "two replicas are ready", SECONDS)
    (stored,) = counted(node, "headrace_node_store_bytes", kept.namespace)
    pods = [pod["metadata"]["name"] for pod in kept.pods("smol")]

    def mapped() -> list[list[float]]:
        with ThreadPoolExecutor(8) as pool:  # requests at the same time go to both
            assert all(pool.map(lambda _: post(kept, "/completions", short())[0] == 200, range(8)))
        words = (python(node, kept.namespace, pod, MAPPED, container="runtime").split() for pod in pods)
        return [[int(kilobytes) * 1024 / stored for kilobytes in each] for each in words]

    def all_read() -> list[list[float]] | None:
        found = mapped()
        return found if all(resident > 0.9 for resident, _ in found) else None

    shares = until(all_read, lambda: f"both have read the weights: {mapped()}", SECONDS)
    assert sum(share for _, share in shares) < 1.1, shares
    kept.apply(keeping())


def standby_pods(world: ClusterWorld) -> list[str]:
    """Return the running pods of the pool."""
    selector = "headrace.dev/component=standby"
    pods = world.site.kube.items("pods", world.namespace, selector)
    return [pod["metadata"]["name"] for pod in pods if pod["status"].get("phase") == "Running"]


def test_process_when_woken_then_a_standby_pod_serves(kept: ClusterWorld, node: Kube) -> None:
    """The pods of both cold starts waited before; each serves once, and the next one takes its place in the pool."""
    coldstart = {"coldStart": {"keep": "Process"}}
    kept.apply(keeping(**coldstart))
    served = []
    for _ in range(2):
        wait(kept, "smol", "Idle")
        until(lambda: not kept.pods("smol"), "the model is at zero", SECONDS)
        (warm,) = until(lambda: standby_pods(kept), "a standby pod runs", SECONDS)
        status, answer = post(kept, "/chat/completions", asked("smol"))
        assert status == 200, answer
        ready = until(lambda: [pod for pod in kept.pods("smol") if is_ready(pod)], "a replica is ready", SECONDS)
        assert [pod["metadata"]["name"] for pod in ready] == [warm]
        assert ready[0]["metadata"]["ownerReferences"][0]["name"].startswith("smol-")
        served.append(warm)
    assert len(set(served)) == 2
    assert kept.get("smol")["status"]["keep"] == "Process"


def test_weights_when_a_node_has_them_then_replicas_prefer_it(site: Site, kept: ClusterWorld, node: Kube) -> None:
    """The other node has more capacity: a model without kept weights starts there."""
    assert site.cluster is not None
    first, second = site.cluster.node_names
    kept.apply(keeping())
    kept.apply(model(SMOLLM2, "other", scaling=SCALING))
    wait(kept, "smol", "Idle")
    assert [each["node"] for each in kept.get("smol")["status"]["keptOn"]] == [first]
    site.cluster.open(second)
    try:
        assert [replica_node(kept, name) for name in ("smol", "other", "smol")] == [first, second, first]
    finally:
        site.cluster.close(second)


def replica_node(world: ClusterWorld, name: str) -> str:
    """Wake a model; return the node of its replica, once it is at zero again."""
    wait(world, name, "Idle")
    until(lambda: not world.pods(name), f"{name} is at zero", world.patience)
    assert post(world, "/completions", short(name))[0] == 200
    (pod,) = world.pods(name)
    until(lambda: not world.pods(name), f"{name} is at zero", world.patience)
    return str(pod["spec"]["nodeName"])


def test_weights_when_model_is_deleted_then_removed(site: Site, kept: ClusterWorld, node: Kube) -> None:
    """Until then they are pinned. The kubelet updates the agent's list once a minute, and when its pod has changed."""
    assert site.cluster is not None
    (agent,) = (pod for pod in agents(node) if pod["spec"]["nodeName"] == site.cluster.node_names[0])

    def held() -> list[str]:
        annotation = f"headrace-e2e/checked={time.time()}"
        node.kubectl("annotate", "--overwrite", "pod", agent["metadata"]["name"], "-n", NAMESPACE, annotation)
        words = python(node, NAMESPACE, agent["metadata"]["name"], HELD, container="agent").split()
        return [word for word in words if word.startswith(kept.namespace)]

    until(lambda: held() == [f"{kept.namespace}:True"], lambda: f"the weights are pinned: {held()}", SECONDS)
    kept.delete("smol")
    until(lambda: not held(), lambda: f"the weights are removed: {held()}", SECONDS)


@pytest.mark.parametrize(("container", "mask"), [("agent", 1 << BPF | 1 << NET_ADMIN), ("keeper", 0)])
def test_containers_when_running_then_have_named_capabilities(node: Kube, container: str, mask: int) -> None:
    assert int(python(node, NAMESPACE, agent_pod(node), CAPABILITIES, container=container), 16) == mask


def test_object_when_put_then_only_its_namespace_maps_it(node: Kube) -> None:
    key = python(node, TENANTS[0], "user", PUT)
    assert try_get(node, TENANTS[0], key) == "700000"
    assert "ObjectNotFound" in try_get(node, TENANTS[1], key)


def test_driver_when_registered_then_kubelet_names_the_node(node: Kube) -> None:
    on = node.get("pods", TENANTS[0], "user")["spec"]["nodeName"]
    drivers = json.loads(node.kubectl("get", "csinode", on, "-o", "json"))["spec"]["drivers"]
    assert {"name": "node.headrace.dev", "nodeID": on}.items() <= next(iter(drivers)).items()


def test_agent_when_killed_then_objects_survive_in_volumes(node: Kube) -> None:
    key = python(node, TENANTS[0], "user", PUT)
    pod = agent_pod(node)
    before = status_of(node, pod, "agent")["restartCount"]
    node.kubectl("exec", "-n", NAMESPACE, pod, "-c", "agent", "--", "python", "-c", "import os; os.kill(1, 15)")
    until(lambda: status_of(node, pod, "agent")["restartCount"] > before, "the agent is restarted", SECONDS)
    wait_for_agent(node)
    until(lambda: try_get(node, TENANTS[0], key) == "700000", "the object is found again", SECONDS)


def test_agent_pod_when_deleted_by_force_then_volume_works(node: Kube) -> None:
    """Its containers may still run when the next pod starts; objects survive then, or are gone."""
    key = python(node, TENANTS[0], "user", PUT)
    node.force_delete(NAMESPACE, agent_pod(node))
    wait_for_agent(node)
    outcomes = ("700000", "ObjectNotFound")
    until(lambda: any(one in try_get(node, TENANTS[0], key) for one in outcomes), "the new agent answers", SECONDS)
    assert try_get(node, TENANTS[0], python(node, TENANTS[0], "user", PUT)) == "700000"
