"""`headrace scale`: set spec.replicas."""

from __future__ import annotations

import argparse
import sys

from headrace.cli.targets import add_namespace, add_target, client_of, count, target_of

FORCE_ZERO = (
    "To force zero, set spec.suspend: true (requests are refused then), or spec.scaling.idleTimeoutSeconds: 1 "
    "(the next request starts it again)"
)


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
    named = f"{target.kind.singular}/{target.name}"
    if client.get(target.kind, arguments.namespace, target.name)["spec"].get("scaling"):
        remedy = "Change its minReplicas and maxReplicas, or remove it" if arguments.replicas else FORCE_ZERO
        print(
            f"warning: {named} is not scaled: spec.replicas is {arguments.replicas} now but ignored, since "
            f"spec.scaling is set. {remedy}",
            file=sys.stderr,
        )
    else:
        print(f"{named} scaled to {arguments.replicas}")
    return 0
