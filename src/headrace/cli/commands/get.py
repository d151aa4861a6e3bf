"""`headrace get`: list resources, once or with --watch."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

from headrace.api.kinds import Kind
from headrace.cli import output
from headrace.cli.client import ApiClient
from headrace.cli.targets import Target, UnknownKind, add_namespace, add_target, client_of, for_each, targets_of
from headrace.kinds.columns import AGE, Object


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_target(parser, name_required=False)
    add_namespace(parser)
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="list all namespaces")
    parser.add_argument("-o", "--output", choices=("wide", "yaml", "json", "name"), help="format")
    parser.add_argument("-w", "--watch", action="store_true", help="print changes until Ctrl-C")


def run(arguments: argparse.Namespace) -> int:
    """Print the objects, in a table for each kind; a missing object does not hide the others."""
    client = client_of(arguments)
    targets = targets_of(arguments.target, name_required=False)
    everywhere = arguments.all_namespaces and all(target.name is None for target in targets)
    namespace = None if everywhere else arguments.namespace
    if arguments.watch:
        return _watch(client, targets, namespace, arguments.output)
    found: list[_Found] = []

    def look_up(target: Target) -> None:
        response = client.get(target.kind, namespace, target.name)
        if target.kind.kind == "Event" and target.name is None:
            response["items"].sort(key=output.last_seen)
        found.append(_Found(target.kind, response))

    code = for_each(targets, look_up)
    if arguments.output in ("json", "yaml"):
        if found:
            print(output.dump(_one(found), arguments.output))
        return code
    for number, kind in enumerate({item.kind.kind: item.kind for item in found}.values()):
        if number and arguments.output != "name":
            print()
        objects = [obj for item in found if item.kind is kind for obj in item.objects]
        _print(kind, objects, namespace, arguments.output)
    return code


@dataclass(frozen=True, slots=True)
class _Found:
    """The API's response for one target."""

    kind: Kind
    response: Object

    @property
    def objects(self) -> list[Object]:
        """Return the object, or those of the list."""
        objects: list[Object] = self.response.get("items", [self.response])
        return objects


def _one(found: list[_Found]) -> Object:
    """Return the responses as one document: several become a List, as in kubectl."""
    if len(found) == 1:
        return found[0].response
    return {"apiVersion": "v1", "kind": "List", "items": [obj for item in found for obj in item.objects]}


def _print(kind: Kind, objects: list[Object], namespace: str | None, form: str | None) -> None:
    if form == "name":
        for obj in objects:
            print(f"{kind.singular}/{obj['metadata']['name']}")
    elif objects:
        columns = output.columns_of(kind, wide=form == "wide", all_namespaces=namespace is None)
        print("\n".join(output.table(columns, objects)))
    else:
        where = "in any namespace" if namespace is None else f"in namespace {namespace}"
        print(f"no {kind.plural} {where}", file=sys.stderr)


def _watch(client: ApiClient, targets: list[Target], namespace: str | None, form: str | None) -> int:
    """Print the header once, and a row for each visible change; `json`, `yaml` and `name` print all changes.

    A model that is fetched changes its status with every percent, which a row may not show. The columns of different
    rows are not aligned.
    """
    kind, names = targets[0].kind, {target.name for target in targets}
    if any(target.kind is not kind for target in targets):
        raise UnknownKind("--watch takes one kind", hint="Run one command for each kind")
    columns = output.columns_of(kind, wide=form == "wide", all_namespaces=namespace is None)
    header_printed = False
    seen: dict[tuple[str, str], list[str]] = {}
    for change in client.watch(kind, namespace):
        obj = change["object"]
        if None not in names and obj["metadata"]["name"] not in names:
            continue
        if form in ("json", "yaml"):
            print(output.dump(obj, form), flush=True)
            continue
        if form == "name":
            print(f"{kind.singular}/{obj['metadata']['name']}", flush=True)
            continue
        key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
        # A repeated event differs from the earlier one only in its time.
        row = [column.value(obj) for column in columns if column is not AGE] + [output.last_seen(obj)]
        if change["type"] == "DELETED":
            seen.pop(key, None)
        elif seen.get(key) == row:
            continue
        else:
            seen[key] = row
        lines = output.table(columns, [obj])
        suffix = "   (deleted)" if change["type"] == "DELETED" else ""
        if not header_printed:
            print(lines[0])
            header_printed = True
        print(lines[1] + suffix, flush=True)
    return 0
