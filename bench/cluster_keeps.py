"""Bench of cold starts on a cluster by what outlives replicas: from a request to a model at zero until its first token.

SmolLM2 as three models, of `keep: Nothing`, `Weights` and `Process`; their cold starts alternate, and the median of
each counts. The node agent is switched on for the bench. `--kubeconfig` names a kind cluster with headrace.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent.parent / folder) for folder in ("tests", "e2e")]

from bars import bar, environment, spread
from bench_wakes import pause
from cluster_bench import complete, until, wait_idle
from cluster_world import SMOLLM2, ClusterWorld, Site, tenant
from installation import prepare
from release import NAME, NAMESPACE

from headrace.api.vocabulary import COMPONENT_LABEL, COMPONENT_STANDBY

ROUNDS = 8
KEEPS = ("Nothing", "Weights", "Process")
WARM_SECONDS = 5.0
"""For a standby pod that runs to load its libraries."""
NODE: dict[str, Any] = {"enabled": True, "store": {"memory": "768Mi"}}


def manifest(keep: str) -> dict[str, Any]:
    """Return a model that scales to zero after two seconds."""
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": keep.lower()},
        "spec": {
            "model": {"source": {"uri": SMOLLM2}},
            "runtime": {"llm": {"maxModelLen": 512, "maxConcurrentRequests": 1}},
            "scaling": {"idleTimeoutSeconds": 2, "coldStart": {"keep": keep}},
            # Small requests: replicas and standby pods fit on two cores.
            "template": {"resources": {"requests": {"cpu": "50m", "memory": "256Mi"}}},
        },
    }


def standby_runs(world: ClusterWorld) -> bool:
    """Whether a standby pod waits."""
    pods = world.site.kube.items("pods", world.namespace, f"{COMPONENT_LABEL}={COMPONENT_STANDBY}")
    return any(pod["status"].get("phase") == "Running" for pod in pods)


def cold_starts(world: ClusterWorld, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of cold starts by `keep`."""
    measured: dict[str, list[float]] = {keep: [] for keep in KEEPS}
    for keep in KEEPS:
        world.apply(manifest(keep))
    for number in range(rounds + 1):
        for keep in random.sample(KEEPS, len(KEEPS)):
            wait_idle(world, keep.lower())
            until(lambda: standby_runs(world), "a standby pod runs")
            time.sleep(WARM_SECONDS)
            pause()
            answer = complete(world, keep.lower(), stream=True)
            if number:  # the first one stores the weights
                measured[keep].append(answer.arrived - answer.sent)
    for keep in KEEPS:
        wait_idle(world, keep.lower())
        status = world.get(keep.lower())["status"]
        print(f"  keep {keep}, really {status.get('keep', 'Nothing')}: {status['lastColdStart']}")
    return measured


def measure(site: Site, rounds: int) -> None:
    """Measure on a cluster with headrace."""
    site.release.install({"node": NODE})
    site.kube.kubectl("rollout", "status", "-n", NAMESPACE, f"daemonset/{NAME}-node")
    try:
        with tenant(site, "bench-keeps") as world:
            measured = cold_starts(world, rounds)
            for keep in KEEPS:
                world.delete(keep.lower())
            until(lambda: not site.kube.items("pods", world.namespace), "no pod has the agent's volume")
    finally:
        site.release.install()
    for keep in KEEPS:
        spread(f"request at zero to first token, keep {keep}", measured[keep], "s")
    medians = {keep: statistics.median(measured[keep]) for keep in KEEPS}
    bar("kind-process-of-nothing", medians["Process"] / medians["Nothing"], 0.4, "x")
    bar("kind-weights-of-nothing", medians["Weights"] / medians["Nothing"], 1.25, "x")


def main() -> None:
    """Measure on an existing cluster, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True, help="kubeconfig of a kind cluster with headrace")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="cold starts of each model")
    given = parser.parse_args()
    environment()
    measure(prepare(given.kubeconfig), given.rounds)


if __name__ == "__main__":
    main()
