"""`headrace delete`: remove resources and what they own."""

from __future__ import annotations

import argparse

from headrace.cli.commands.apply import kind_of
from headrace.cli.manifests import read
from headrace.cli.targets import UnknownKind, add_namespace, client_of, target_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("target", nargs="*", metavar="KIND/NAME", help="e.g. mdep/smollm2")
    parser.add_argument(
        "-f", "--filename", action="append", default=[], metavar="FILE", help="what this file describes"
    )
    add_namespace(parser)


def run(arguments: argparse.Namespace) -> int:
    """Delete what is named."""
    client = client_of(arguments)
    doomed = []
    for path in arguments.filename:
        for document in read(path):
            metadata = document.manifest["metadata"]
            doomed.append((kind_of(document), metadata.get("namespace", arguments.namespace), metadata["name"]))
    if arguments.target:
        target = target_of(arguments.target)
        doomed.append((target.kind, arguments.namespace, target.name))
    if not doomed:
        raise UnknownKind("nothing is named that could be deleted", hint="Give KIND/NAME or -f FILE")
    for kind, namespace, name in doomed:
        client.delete(kind, namespace, name)
        print(f"{kind.singular}/{name} deleted")
    return 0
