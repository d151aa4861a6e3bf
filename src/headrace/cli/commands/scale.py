"""`headrace scale`: set spec.replicas."""

from __future__ import annotations

import argparse
import sys

from headrace.cli.targets import add_namespace, add_target, client_of, count, target_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_target(parser)
    parser.add_argument("--replicas", type=count, required=True, help="how many; 0 means off")
    add_namespace(parser)


def run(arguments: argparse.Namespace) -> int:
    """Scale, and say when the autoscaler will not care."""
    client = client_of(arguments)
    target = target_of(arguments.target)
    assert target.name is not None
    client.scale(target.kind, arguments.namespace, target.name, arguments.replicas)
    print(f"{target.kind.singular}/{target.name} scaled to {arguments.replicas}")
    if client.get(target.kind, arguments.namespace, target.name)["spec"].get("scaling"):
        print("note: spec.scaling is set, so the autoscaler decides and spec.replicas is ignored", file=sys.stderr)
    return 0
