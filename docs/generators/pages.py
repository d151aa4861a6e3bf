"""Generated parts of the reference: `<!-- begin NAME … -->` to `<!-- end -->` in a page, by name.

What stands around them is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from generators import chart_values, errors, fields, metrics, operations, programs, reasons, variables
from generators.source import CHECKOUT
from headrace.kinds.registry import RESOURCE_KINDS

REFERENCE = CHECKOUT / "docs/reference"

_PART = re.compile(
    r"(?P<begin><!-- begin (?P<name>[^:\n]+): [^\n]+ -->\n)(?P<text>.*?)(?P<end><!-- end -->)", re.DOTALL
)


def parts() -> Mapping[str, Callable[[], str]]:
    """Return the generators by the names of their parts; each kind of resource has three."""
    found: dict[str, Callable[[], str]] = {
        "capabilities": reasons.capabilities,
        "chart values": chart_values.values,
        "commands": programs.commands,
        "control paths": operations.control,
        "environment variables": variables.variables,
        "errors of requests": errors.requests,
        "event reasons": reasons.event_reasons,
        "gateway metrics": metrics.gateway,
        "node metrics": metrics.node,
        "operations": operations.operations,
        "operator metrics": metrics.operator,
        "other errors": errors.others,
        "reasons": reasons.condition_reasons,
        "runtime metrics": metrics.runtime,
        "servers": programs.servers,
    }
    for kind in RESOURCE_KINDS:
        found[f"spec of {kind}"] = partial(fields.spec, kind)
        found[f"status of {kind}"] = partial(fields.status, kind)
        found[f"conditions of {kind}"] = partial(reasons.condition_types, kind)
    return found


def pages() -> Iterator[Path]:
    """Yield the pages that have generated parts."""
    return (path for path in sorted(REFERENCE.glob("*.md")) if _PART.search(path.read_text(encoding="utf-8")))


def names(text: str) -> list[str]:
    """Return the names of a page's parts."""
    return [found["name"] for found in _PART.finditer(text)]


def rendered(text: str) -> str:
    """Return a page with its parts generated anew."""
    known = parts()
    return _PART.sub(lambda found: f"{found['begin']}{known[found['name']]()}{found['end']}", text)


def write() -> Iterator[Path]:
    """Generate all parts of all pages, and yield the paths."""
    for path in pages():
        path.write_text(rendered(path.read_text(encoding="utf-8")), encoding="utf-8")
        yield path
