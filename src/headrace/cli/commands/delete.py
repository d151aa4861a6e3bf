"""`headrace delete`: remove resources and what they own."""

from __future__ import annotations

import argparse

from headrace.api.kinds import Kind
from headrace.cli.commands.apply import kind_of
from headrace.cli.manifests import read
from headrace.cli.targets import UnknownKind, add_namespace, client_of, for_each, targets_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("target", nargs="*", metavar="KIND/NAME", help="e.g. mdep/smollm2 or `mdep a b`")
    parser.set_defaults(words="target")
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
    targets = targets_of(arguments.target) if arguments.target else []
    doomed += [(target.kind, arguments.namespace, str(target.name)) for target in targets]
    if not doomed:
        raise UnknownKind("nothing is named that could be deleted", hint="Give KIND/NAME or -f FILE")

    def delete(doomed: tuple[Kind, str, str]) -> None:
        kind, namespace, name = doomed
        client.delete(kind, namespace, name)
        print(f"{kind.singular}/{name} deleted")

    return for_each(doomed, delete)
