"""`headrace apply`: create or update resources from files."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterable
from typing import Any

from headrace.api.kinds import Kind
from headrace.api.vocabulary import ACCEPTED
from headrace.cli.client import ApiClient, Applied
from headrace.cli.manifests import Document, line_of, read
from headrace.cli.targets import UnknownKind, add_namespace, client_of, nearest_kind
from headrace.errors import InvalidResource, NotFound
from headrace.kinds.columns import condition
from headrace.kinds.registry import KINDS, RESOURCE_KINDS, user_kinds

ACCEPTED_SECONDS = 1.0
"""How long `apply` waits for the condition Accepted of what it has applied, which takes milliseconds."""
POLL_SECONDS = 0.02


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("-f", "--filename", action="append", required=True, metavar="FILE", help="YAML file, or -")
    add_namespace(parser, "namespace of resources without one")
    parser.add_argument("--dry-run", action="store_true", help="validate only; change nothing")


def run(arguments: argparse.Namespace) -> int:
    """Validate all documents, then apply all; nothing is applied if one is invalid."""
    client = client_of(arguments)
    documents = [document for path in arguments.filename for document in read(path)]
    faulty, changed = False, list[tuple[Document, Applied]]()
    for dry_run in (True, False):
        if faulty or (arguments.dry_run and not dry_run):
            break
        for document in documents:
            kind = kind_of(document)
            document.manifest["metadata"].setdefault("namespace", arguments.namespace)
            try:
                applied = client.apply(kind, document.manifest, dry_run=dry_run)
            except InvalidResource as error:
                faulty = True
                for fault in error.causes:
                    print(document.where(fault), file=sys.stderr)
                continue
            if not dry_run or arguments.dry_run:
                suffix = " (dry run)" if dry_run else ""
                print(f"{kind.singular}/{document.manifest['metadata']['name']} {applied.verb}{suffix}")
                warn_of_replicas(document)
                changed += [] if dry_run else [(document, applied)]
    if faulty:
        print("error: nothing was applied. Fix the lines above and apply again", file=sys.stderr)
        return InvalidResource.exit_code
    report_consequences(client, changed)
    return 0


def report_consequences(client: ApiClient, changed: Iterable[tuple[Document, Applied]]) -> None:
    """Print what the reconcile loop makes of each applied resource within a moment: a rejection, or a new revision."""
    deadline = time.monotonic() + ACCEPTED_SECONDS
    for document, applied in changed:
        kind, metadata = kind_of(document), applied.manifest["metadata"]
        resource = RESOURCE_KINDS.get(kind.kind)
        if resource is None or ACCEPTED not in resource.conditions:
            continue
        reconciled = applied.manifest
        accepted = condition(reconciled, ACCEPTED)
        while accepted.get("observedGeneration") != metadata["generation"] or accepted["status"] == "Unknown":
            if time.monotonic() > deadline:
                return
            time.sleep(POLL_SECONDS)
            try:
                reconciled = client.get(kind, metadata["namespace"], metadata["name"])
                accepted = condition(reconciled, ACCEPTED)
            except NotFound:  # deleted meanwhile
                return
        if accepted["status"] == "False":
            field = re.match(r"[\w.\[\]]*", accepted["message"])
            line = line_of(document.node, field[0] if field else "")
            print(
                f"warning: {document.path}:{line}: the reconcile loop rejects {kind.singular}/{metadata['name']} "
                f"({accepted['reason']}): {accepted['message']}",
                file=sys.stderr,
            )
        else:
            report_revision(f"{kind.singular}/{metadata['name']}", applied.manifest, reconciled)


def report_revision(what: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Print the name of the revision that a change has created."""
    old, new = (
        [each["name"] for each in manifest.get("status", {}).get("revisions", [])] for manifest in (before, now)
    )
    if old and new and new[0] != old[0]:
        kept = " exists already and" if new[0] in old else ""
        print(f"{what}: revision {new[0]}{kept} replaces {old[0]}, because its replicas differ")


def warn_of_replicas(document: Document) -> None:
    """Print a warning if spec.replicas is set but ignored."""
    spec = document.manifest.get("spec")
    if isinstance(spec, dict) and spec.get("scaling") is not None and "replicas" in spec:
        where = f"{document.path}:{line_of(document.node, 'spec.replicas')}"
        print(f"warning: {where}: spec.replicas is ignored, because spec.scaling is set. Remove one", file=sys.stderr)


def kind_of(document: Document) -> Kind:
    """Return the kind of a document. Raises UnknownKind with its file and line."""
    word, api_version = document.manifest["kind"], document.manifest["apiVersion"]
    kind = KINDS.get(word)
    if kind is None or word not in user_kinds():
        meant = nearest_kind(word)
        guess = f"Did you mean {meant.kind}? " if meant is not None and kind is None else ""
        known = ", ".join(f"{kind.api_version} {name}" for name, kind in sorted(user_kinds().items()))
        fault = f"unknown kind {word}" if kind is None else f"{kind.plural} are made by headrace, not by users"
        raise UnknownKind(
            f"{document.path}:{line_of(document.node, 'kind')}: {fault}", hint=f"{guess}Known kinds: {known}"
        )
    if kind.api_version != api_version:
        raise UnknownKind(
            f"{document.path}:{line_of(document.node, 'apiVersion')}: there is no {word} in {api_version}",
            hint=f"Write `apiVersion: {kind.api_version}`",
        )
    return kind
