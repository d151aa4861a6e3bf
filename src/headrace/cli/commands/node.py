"""`headrace node`: what the node agent of the local instance holds, for whom, and its hit ratios."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from headrace.agent.admin import SOCKET_NAME, AdminClient, HeldObject, TenantUse
from headrace.cli.client import not_running
from headrace.local.home import InstanceHome

SHOWN_KEY_CHARACTERS = 16
"""Of a key in the table; `-o json` prints the whole key."""
MIB = 1 << 20
EMPTY = """\
the node agent holds no objects. Set `spec.scaling.coldStart.keep: Weights` of a model: its next replica stores the
weights here, and later replicas map them (`headrace describe mdep/NAME` shows the stages of a start)"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "list what the node agent of the local instance holds, for whom, and its hit ratios; in a cluster, the agents'"
        " metrics at port 8081 have this"
    )
    parser.add_argument("-o", "--output", choices=("json",), help="format")


def run(arguments: argparse.Namespace) -> int:
    """Print the tenants and the objects."""
    home = InstanceHome.of(arguments.instance)
    client = AdminClient(home.node / SOCKET_NAME)
    if not home.is_running():
        raise not_running(home.directory)
    tenants, objects = list(client.tenants()), list(client.objects())
    if arguments.output == "json":
        uses = [{**asdict(use), "hit_ratio": use.hit_ratio} for use in tenants]
        print(json.dumps({"tenants": uses, "objects": [asdict(each) for each in objects]}, indent=2))
    elif not tenants:
        print(EMPTY, file=sys.stderr)
    else:
        print("\n".join([*_table(_tenant_rows(tenants)), *([""] if objects else []), *_table(_object_rows(objects))]))
    return 0


def _tenant_rows(tenants: Sequence[TenantUse]) -> list[list[str]]:
    rows = [["TENANT", "MEMORY", "HITS", "MISSES", "HIT RATIO", "EVICTIONS"]]
    for use in tenants:
        ratio = "-" if use.hit_ratio is None else f"{use.hit_ratio:.0%}"
        rows.append([use.tenant, _mib(use.memory), str(use.hits), str(use.misses), ratio, str(use.evictions)])
    return rows


def _object_rows(objects: Sequence[HeldObject]) -> list[list[str]]:
    if not objects:
        return []
    rows = [["TENANT", "KEY", "CLASS", "SIZE", "LEASES", "PINNED"]]
    for each in objects:
        key = f"{each.key[:SHOWN_KEY_CHARACTERS]}…"
        pinned = "yes" if each.pinned else ""
        rows.append([each.tenant, key, each.object_class, _mib(each.size), str(each.leases), pinned])
    return rows


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows with their columns padded to the widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
