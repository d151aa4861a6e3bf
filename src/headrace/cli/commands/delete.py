"""`headrace delete`: delete resources and their children."""

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
        "-f", "--filename", action="append", default=[], metavar="FILE", help="delete the resources in this file"
    )
    add_namespace(parser)


def run(arguments: argparse.Namespace) -> int:
    """Delete the resources."""
    client = client_of(arguments)
    resources = []
    for path in arguments.filename:
        for document in read(path):
            metadata = document.manifest["metadata"]
            resources.append((kind_of(document), metadata.get("namespace", arguments.namespace), metadata["name"]))
    targets = targets_of(arguments.target) if arguments.target else []
    resources += [(target.kind, arguments.namespace, str(target.name)) for target in targets]
    if not resources:
        raise UnknownKind("no resource to delete is given", hint="Give KIND/NAME or -f FILE")

    def delete(resource: tuple[Kind, str, str]) -> None:
        kind, namespace, name = resource
        client.delete(kind, namespace, name)
        print(f"{kind.singular}/{name} deleted")

    return for_each(resources, delete)
