"""`headrace get`: list resources, once or as they change."""

from __future__ import annotations

import argparse
import sys

from headrace.cli import output
from headrace.cli.client import ApiClient
from headrace.cli.targets import Target, add_namespace, add_target, client_of, target_of
from headrace.kinds.columns import AGE


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_target(parser, name_required=False)
    add_namespace(parser)
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="of every namespace")
    parser.add_argument("-o", "--output", choices=("wide", "yaml", "json", "name"), help="format")
    parser.add_argument("-w", "--watch", action="store_true", help="print what changes until Ctrl-C")


def run(arguments: argparse.Namespace) -> int:
    """Print what is asked for."""
    client = client_of(arguments)
    target = target_of(arguments.target, name_required=False)
    namespace = None if arguments.all_namespaces and target.name is None else arguments.namespace
    if arguments.watch:
        return _watch(client, target, namespace, arguments.output)
    found = client.get(target.kind, namespace, target.name)
    if target.kind.kind == "Event" and target.name is None:
        found["items"].sort(key=output.last_seen)
    objects = [found] if target.name is not None else found["items"]
    if arguments.output in ("json", "yaml"):
        print(output.dump(found, arguments.output))
    elif arguments.output == "name":
        for obj in objects:
            print(f"{target.kind.singular}/{obj['metadata']['name']}")
    elif objects:
        columns = output.columns_of(target.kind, wide=arguments.output == "wide", all_namespaces=namespace is None)
        print("\n".join(output.table(columns, objects)))
    else:
        where = "in any namespace" if namespace is None else f"in namespace {namespace}"
        print(f"no {target.kind.plural} {where}", file=sys.stderr)
    return 0


def _watch(client: ApiClient, target: Target, namespace: str | None, form: str | None) -> int:
    """Print the header once and a row for each that looks different from before; `json`, `yaml` and `name` print all.

    A model that is fetched changes its status with every percent, which a row may not show. Cells are not aligned with
    those of rows to come.
    """
    columns = output.columns_of(target.kind, wide=form == "wide", all_namespaces=namespace is None)
    header_printed = False
    seen: dict[tuple[str, str], list[str]] = {}
    for change in client.watch(target.kind, namespace):
        obj = change["object"]
        if target.name is not None and obj["metadata"]["name"] != target.name:
            continue
        if form in ("json", "yaml"):
            print(output.dump(obj, form), flush=True)
            continue
        if form == "name":
            print(f"{target.kind.singular}/{obj['metadata']['name']}", flush=True)
            continue
        key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
        # An event that happens again looks as it did, but for its time.
        looks = [column.value(obj) for column in columns if column is not AGE] + [output.last_seen(obj)]
        if change["type"] == "DELETED":
            seen.pop(key, None)
        elif seen.get(key) == looks:
            continue
        else:
            seen[key] = looks
        lines = output.table(columns, [obj])
        suffix = "   (deleted)" if change["type"] == "DELETED" else ""
        if not header_printed:
            print(lines[0])
            header_printed = True
        print(lines[1] + suffix, flush=True)
    return 0
