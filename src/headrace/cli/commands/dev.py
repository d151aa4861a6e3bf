"""`headrace dev`: for who works on headrace itself, in a checkout."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser(
        "crds", help="write crds/ and the chart's copies from headrace.api; a test fails when they differ"
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out the action."""
    assert arguments.action == "crds"
    from headrace.kinds.crds import CRD_DIRECTORY, write  # noqa: PLC0415 - pydantic, which no other command waits for

    for path in write():
        print(f"wrote {path.relative_to(CRD_DIRECTORY.parent)}")
    return 0
