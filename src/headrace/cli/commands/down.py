"""`headrace down`: stop the running instance and wait until nothing of it is left."""

from __future__ import annotations

import argparse

from headrace.cli.targets import client_of
from headrace.local.home import InstanceHome, wait_stopped


def configure(parser: argparse.ArgumentParser) -> None:
    """Take no arguments of its own."""
    del parser


def run(arguments: argparse.Namespace) -> int:
    """Stop it. Resources, models and events stay for the next `headrace up`."""
    client_of(arguments).shutdown()
    print("stopping (running requests may finish) …", flush=True)
    wait_stopped(InstanceHome.of(arguments.instance))
    print("stopped. Resources and models stay for the next `headrace up`")
    return 0
