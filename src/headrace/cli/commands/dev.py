"""`headrace dev`: generated files of a checkout of headrace."""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Iterable
from pathlib import Path

from headrace.cli.documents import CHECKOUT, release_changelog


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser(
        "crds", help="write crds/ and the chart's copies from headrace.kinds; a test fails if they differ"
    )
    changelog = actions.add_parser("changelog", help="move the fragments of changelog.d/ into CHANGELOG.md")
    changelog.add_argument("version", help="the version to be released, such as 0.2.0")


def run(arguments: argparse.Namespace) -> int:
    """Run the action."""
    for path in _written(arguments):
        print(f"wrote {path.relative_to(CHECKOUT)}")
    return 0


def _written(arguments: argparse.Namespace) -> Iterable[Path]:
    match arguments.action:
        case "crds":
            from headrace.kinds.crds import write  # noqa: PLC0415 - imports pydantic, which is slow

            return write()
        case _:
            return [release_changelog(arguments.version, dt.datetime.now(dt.UTC).date())]
