"""`make e2e`, `make cluster-up`, `make cluster-down`: a cluster with headrace, for the suite or for manual use."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # for the behaviours that both worlds share

from cluster import GATEWAY_PORT, MODELS_IN_NODE, ROOT, CannotRun, Cluster, require_tools
from installation import KUBECONFIG, built_images, prepare
from release import MODELS_CLAIM, renew_volume, volume

NODES = 2
"""The second one is cordoned except in the tests of drains: most tests use one node."""
MANUAL_NAMESPACES = ("default", "team-a", "team-b")
"""Namespaces with a volume for models after `up`, because the suite's StorageClass has no provisioner."""


SUITES = ("e2e/chart", "e2e/suite")
"""Tests of the rendered chart, and of the installed one."""


def main(words: list[str]) -> int:
    """Run a command; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="create a cluster, build and load the images, install headrace")
    commands.add_parser("down", help="delete that cluster")
    commands.add_parser("test", help="run the suite in a cluster of its own; other arguments go to pytest")
    arguments, others = parser.parse_known_args(words)
    try:
        require_tools()
        if arguments.command == "up":
            return _up()
        if arguments.command == "down":
            Cluster().delete()
            print("the cluster is deleted")
            return 0
        return _test(others)
    except CannotRun as error:
        print(f"end-to-end: {error}", file=sys.stderr)
        return 2


def _up() -> int:
    cluster = Cluster(nodes=NODES)
    if not cluster.exists():
        _create(cluster)
    site = prepare(cluster.kubeconfig, every_node=True)
    for namespace in MANUAL_NAMESPACES:
        renew_volume(site.kube, volume(namespace, MODELS_CLAIM, MODELS_IN_NODE))
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    print(f"# the gateway: http://127.0.0.1:{GATEWAY_PORT}/v1 (no port-forward is needed)")
    print(f"# volumes for models: in the namespaces {', '.join(MANUAL_NAMESPACES)}")
    print(f"# closed, as most tests see one node: kubectl uncordon {' '.join(cluster.node_names[1:])}")
    print("# next: docs/getting-started/kubernetes.md, 'A first token'")
    return 0


def _test(others: list[str]) -> int:
    """Run the suite. Nothing is printed after its summary, the last line."""
    built_images()
    with _kubeconfig() as kubeconfig:
        command = [sys.executable, "-m", "pytest", "-q", "--timeout=600", "--durations=15", *SUITES, *others]
        environment = {**os.environ, KUBECONFIG: str(kubeconfig)}
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


@contextlib.contextmanager
def _kubeconfig() -> Iterator[Path]:
    """Yield the kubeconfig of the given cluster, or of a new one, which is always deleted after the run."""
    if told := os.environ.get(KUBECONFIG):
        if not Path(told).exists():
            raise CannotRun(f"{KUBECONFIG} names {told}, and there is no such file")
        yield Path(told)
        return
    signal.signal(signal.SIGTERM, _interrupted)
    cluster = Cluster(nodes=NODES)
    try:
        _create(cluster)
        yield cluster.kubeconfig
    finally:
        cluster.delete()


def _create(cluster: Cluster) -> None:
    cluster.create()
    for node in cluster.node_names[1:]:
        cluster.close(node)


def _interrupted(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
