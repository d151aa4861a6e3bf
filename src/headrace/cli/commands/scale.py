"""`headrace scale`: set spec.replicas."""

from __future__ import annotations

import argparse
import sys

from headrace.cli.client import ApiClient
from headrace.cli.targets import Target, add_namespace, add_target, client_of, count, for_each, targets_of

FORCE_ZERO = (
    "To scale to zero, set spec.suspend: true (requests are rejected), or spec.scaling.idleTimeoutSeconds: 1 "
    "(the next request starts the model again)"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_target(parser)
    parser.add_argument("--replicas", type=count, required=True, help="number of replicas; 0: requests are rejected")
    add_namespace(parser)


def run(arguments: argparse.Namespace) -> int:
    """Scale, and print a warning if the autoscaler ignores spec.replicas."""
    client = client_of(arguments)
    return for_each(
        targets_of(arguments.target), lambda target: _scale(client, target, arguments.namespace, arguments.replicas)
    )


def _scale(client: ApiClient, target: Target, namespace: str, replicas: int) -> None:
    assert target.name is not None
    client.scale(target.kind, namespace, target.name, replicas)
    named = f"{target.kind.singular}/{target.name}"
    if client.get(target.kind, namespace, target.name)["spec"].get("scaling"):
        remedy = "Change its minReplicas and maxReplicas, or remove it" if replicas else FORCE_ZERO
        print(
            f"warning: {named} is not scaled: spec.replicas is {replicas} now but ignored, because "
            f"spec.scaling is set. {remedy}",
            file=sys.stderr,
        )
    else:
        print(f"{named} scaled to {replicas}")
