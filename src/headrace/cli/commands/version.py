"""`headrace version`."""

from __future__ import annotations

import argparse
from importlib.metadata import version


def configure(parser: argparse.ArgumentParser) -> None:
    """Take no arguments of its own."""
    del parser


def run(arguments: argparse.Namespace) -> int:
    """Print the version."""
    del arguments
    print(f"headrace {version('headrace')}")
    return 0
