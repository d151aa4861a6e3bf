"""`headrace down`: stop the running instance and wait until all its processes have exited."""

from __future__ import annotations

import argparse

from headrace.cli.client import instance_option
from headrace.cli.targets import client_of
from headrace.local.home import InstanceHome, wait_stopped


def configure(parser: argparse.ArgumentParser) -> None:
    """Take no arguments of its own."""
    del parser


def run(arguments: argparse.Namespace) -> int:
    """Stop the instance. Resources, models and events are kept for the next `headrace up`."""
    client_of(arguments).shutdown()
    from headrace.local.gateway_process import GRACE_SECONDS  # noqa: PLC0415 - slow, and the instance stops meanwhile

    print(f"stopping (requests in flight have up to {GRACE_SECONDS:.0f} s to finish) …", flush=True)
    wait_stopped(InstanceHome.of(arguments.instance))
    print(f"stopped. Resources and models are kept for the next `headrace up{instance_option(arguments.instance)}`")
    return 0
