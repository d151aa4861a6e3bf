"""Bench of cold starts on a cluster, compared with a baseline: the start of a plain pod of the same image.

Three kinds of cold starts, each measured alternately with its baseline, so that disturbances affect both:

- A minimal runtime in the serving shell, which registers itself on NATS. Its baseline is a plain pod of the same image
  and command (with the default mount of its account's token) until its first 200 (`bare_pods.serving`). Also printed,
  without a bar: the same runtime with the models volume, as engines with weights have it, because the kubelet needs
  time for any volume.
- A custom container that does not register itself. Its baseline is a plain pod of its image and command, which starts
  sooner than the one above: both are detected by a watch on the API server.
- SmolLM2. Its baseline is a pod of the runtime's image that exits at once, plus a cold start of `headrace up`.

`--kubeconfig` measures on a cluster with headrace.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import yaml

sys.path[:0] = [str(Path(__file__).parent.parent / folder) for folder in ("tests", "e2e")]

from bare_pods import Prober, Started, ending, seen, serving
from bars import bar, environment, spread
from cluster import CACHE, GATEWAY_PORT, ROOT, run
from cluster_bench import Manifest, Watch, complete, is_of, runs, wait_idle
from cluster_world import EXAMPLE, ClusterWorld, Site, tenant
from installation import kind_cluster
from kube import Kube
from local import BenchInstance, Wake
from release import COMPONENTS, NAME, NAMESPACE, Release

from headrace.runtimes.profile import READINESS_PATH

ROUNDS = 15
MODEL_ROUNDS = 10
BARE_PODS = 3
"""Plain pods for each cold start of the minimal runtime, because the time until the API shows a pod varies by 1 s."""
PAUSE_SECONDS = (0.5, 1.5)
"""Range of the random pause before each start: the kubelet relists its containers once a second, and no series may be
synchronous with that."""
IDLE_SECONDS = 2
RESOURCES = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}
ENGINE_MODEL = "echo"
ANNOUNCING = ["headrace-echo", ENGINE_MODEL]
CUSTOM = ["python", "/echo/custom_container.py"]
ECHO_SOURCES = ("bench/echo/Dockerfile", "bench/echo/announcing.py", "bench/echo/custom_container.py")
ECHO_ENGINE = "tests/serving/serving_echo.py"
ANSWER = "answer"
"""The last stage of a cold start for the client."""


class Series:
    """Measurements of one kind of start."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.seconds: list[float] = []
        self._stages: dict[str, list[float]] = {}

    @property
    def median(self) -> float:
        """Median of the whole start, seconds."""
        return statistics.median(self.seconds)

    def add(self, started: Started, end: float) -> None:
        """Add a measurement that ended at `end`."""
        self.seconds.append(end - started.began)
        for stage, at in started.stages.items():
            self._stages.setdefault(stage, []).append(at - started.began)

    def report(self) -> None:
        """Print the distribution of each stage, in their order, and of the whole start."""
        for stage, seconds in sorted(self._stages.items(), key=lambda item: statistics.median(item[1])):
            spread(f"  {self._name}: to '{stage}'", seconds, "s")
        spread(self._name, self.seconds, "s")


def echo_image(gateway: str) -> str:
    """Build the echo image on the gateway's image, which has all dependencies; return its name and tag."""
    digest = hashlib.sha256(gateway.encode())
    context = CACHE / "images/echo"
    shutil.rmtree(context, ignore_errors=True)
    (context / "serving").mkdir(parents=True)
    for source in (*ECHO_SOURCES, ECHO_ENGINE):
        digest.update((ROOT / source).read_bytes())
        shutil.copy(ROOT / source, context / ("serving" if source == ECHO_ENGINE else ""))
    reference = f"headrace-echo:{digest.hexdigest()[:12]}"
    run("docker", "build", "--build-arg", f"BASE={gateway}", "--tag", reference, str(context), timeout=300)
    return reference


class Watches:
    """Watches on the pods and Deployments of a tenant."""

    def __init__(self, world: ClusterWorld) -> None:
        self.pods = Watch(world.site.kube, "pods", world.namespace)
        self.deployments = Watch(world.site.kube, "deployments", world.namespace)

    def close(self) -> None:
        """Stop the watches."""
        self.pods.close()
        self.deployments.close()


def woken(world: ClusterWorld, watches: Watches, name: str, model: str, *, stream: bool) -> Started:
    """Send a request to an idle model; it ends with the response, or with the first token of a stream."""
    wait_idle(world, name)
    pause()
    answer = complete(world, model, stream=stream)
    pod = watches.pods.first(lambda pod: is_of(name)(pod) and runs(pod), answer.sent).object
    patched = watches.deployments.first(lambda it: is_of(name)(it) and it["spec"]["replicas"] == 1, answer.sent)
    stages = {"Deployment patched": patched.at, **seen(world, watches.pods, pod, answer.sent)}
    stages |= {f"the client receives {stage}": at for stage, at in answer.stages.items()}
    return Started(answer.sent, {**stages, ANSWER: answer.arrived})


def pause() -> None:
    """Pause for a random time, so that no start is synchronous with the kubelet."""
    time.sleep(random.uniform(*PAUSE_SECONDS))


def container_runtime(image: str, command: list[str], *, announces: bool) -> Manifest:
    """Return the spec.runtime of a custom container. Of a self-registering one, only the probes need no token."""
    engine = {"image": image, "command": command, "modelName": ENGINE_MODEL, "announces": announces}
    if announces:
        engine["readinessPath"] = READINESS_PATH
    return {"type": "Container", "container": engine}


def apply(world: ClusterWorld, name: str, runtime: Manifest, model: Manifest) -> None:
    """Create a model with a short idle timeout, and wait until it is idle."""
    scaling = {"minReplicas": 0, "maxReplicas": 1, "idleTimeoutSeconds": IDLE_SECONDS}
    spec = {"model": model, "runtime": runtime, "scaling": scaling, "template": {"resources": RESOURCES}}
    world.apply(
        {"apiVersion": "headrace.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": name}, "spec": spec}
    )
    wait_idle(world, name)


def echoes(world: ClusterWorld, image: str, rounds: int) -> None:
    """Measure cold starts of the minimal runtimes, and plain pods of the same images."""
    world.put("echo", b"There is no model in here.")
    announcing = container_runtime(image, ANNOUNCING, announces=True)
    apply(world, "minimal", announcing, {})
    apply(world, "mounting", announcing, {"source": {"uri": world.uri("echo")}})
    apply(world, "custom", container_runtime(image, CUSTOM, announces=False), {})
    wakes = {
        "minimal": Series("wake of a minimal runtime"),
        "mounting": Series("wake of the same with the models mounted"),
        "custom": Series("wake of a custom container"),
    }
    bare_minimal, bare_custom = Series("bare pod of the minimal runtime"), Series("bare pod of the custom container")
    with closing(Watches(world)) as watches, closing(Prober(node(world))) as prober:

        def wake(name: str) -> None:
            began = woken(world, watches, name, name, stream=False)
            wakes[name].add(began, began.stages[ANSWER])
            wait_idle(world, name)

        def bare(series: Series, command: list[str]) -> None:
            pause()
            container = {"image": image, "command": command, "resources": RESOURCES}
            began = serving(world, watches.pods, prober, container)
            series.add(began, began.stages["200"])

        turns = [
            *(partial(wake, name) for name in wakes),
            *[partial(bare, bare_minimal, ANNOUNCING)] * BARE_PODS,
            partial(bare, bare_custom, CUSTOM),
        ]
        for _ in range(rounds):
            for turn in random.sample(turns, len(turns)):  # in random order, so that none always follows the same one
                turn()
    for series in (bare_minimal, *wakes.values(), bare_custom):
        series.report()
    bar("wake-minimal-over-bare-pod", wakes["minimal"].median / bare_minimal.median, 0.8, "")
    bar("wake-brought-over-bare-pod", wakes["custom"].median / bare_custom.median, 1.15, "")


def smollm2(world: ClusterWorld, rounds: int) -> None:
    """Measure cold starts of a real model, and local cold starts of the same file and engine without a cluster.

    A pod's start ends with the time that its program prints: the API server shows it, and its end, much later.
    """
    name, model = EXAMPLE["metadata"]["name"], EXAMPLE["spec"]["model"]["name"]
    scaling = {"minReplicas": 0, "maxReplicas": 1, "idleTimeoutSeconds": IDLE_SECONDS}
    world.apply({**EXAMPLE, "spec": {**EXAMPLE["spec"], "scaling": scaling}})
    wakes, pods, local = Series("wake of SmolLM2"), Series("pod of its image"), Series("local cold start of SmolLM2")
    wait_idle(world, name)
    with closing(Watches(world)) as watches, local_instance() as instance:
        for _ in range(rounds):
            wake = woken(world, watches, name, model, stream=True)
            wakes.add(wake, wake.stages[ANSWER])
            wait_idle(world, name)
            pause()
            pod = ending(world, watches.pods, world.engine_image)
            pods.add(pod, pod.stages["it ran"])
            instance.wait_idle()
            pause()
            local.add(*cold_start())
    for series in (pods, local, wakes):
        series.report()
    bar("wake-smollm2", wakes.median, 1.25 * (pods.median + local.median) + 0.5, "s")


@contextmanager
def local_instance() -> Iterator[BenchInstance]:
    """Run `headrace up` with the example, scaled to zero."""
    with tempfile.TemporaryDirectory(prefix="hr") as directory:
        home = Path(directory)
        manifest = {**EXAMPLE, "spec": {**EXAMPLE["spec"], "scaling": {"minReplicas": 0, "idleTimeoutSeconds": 1}}}
        file = home / "model.yaml"
        file.write_text(yaml.safe_dump(manifest))
        instance = BenchInstance(home, file)
        instance.start()
        try:
            instance.wait_idle()
            yield instance
        finally:
            instance.stop()


def cold_start() -> tuple[Started, float]:
    """Send a request to the local instance's idle model; return the stages and the time of the first token."""
    wake = Wake()
    wake.run()
    assert wake.first_token, "the stream ended without a token"
    stages = {f"the client receives {name}": wake.sent + ms / 1000 for name, ms in wake.stages.items()}
    return Started(wake.sent, stages), wake.first_token


def node(world: ClusterWorld) -> str:
    """Return the name of the node's container."""
    assert world.site.cluster is not None
    return world.site.cluster.node_names[0]


def measure(site: Site, rounds: int = ROUNDS, model_rounds: int = MODEL_ROUNDS) -> None:
    """Measure on a cluster with headrace."""
    assert site.cluster is not None
    if rounds:
        image = echo_image(site.release.images["gateway"])
        site.cluster.load([image], site.cluster.node_names[:1])
        with tenant(site, "bench-echoes") as world:
            echoes(world, image, rounds)
    if model_rounds:
        with tenant(site, "bench-smollm2") as world:
            smollm2(world, model_rounds)


def main() -> None:
    """Measure on an existing cluster, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True, help="kubeconfig of a kind cluster with headrace")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of the minimal runtimes")
    parser.add_argument("--model-rounds", type=int, default=MODEL_ROUNDS, help="rounds of SmolLM2")
    given = parser.parse_args()
    environment()
    kube = Kube(given.kubeconfig)
    values = json.loads(
        run("helm", "--kubeconfig", str(given.kubeconfig), "-n", NAMESPACE, "get", "values", NAME, "-ojson")
    )
    images = {name: f"{it['repository']}:{it['tag']}" for name, it in values["images"].items() if name in COMPONENTS}
    site = Site(kube, Release(kube, images), f"http://127.0.0.1:{GATEWAY_PORT}", kind_cluster(given.kubeconfig))
    measure(site, given.rounds, given.model_rounds)


if __name__ == "__main__":
    main()
