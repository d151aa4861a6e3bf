"""Which namespaces' runtimes may log in: a set that the operator names whole, kept on the volume across restarts."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from headrace.broker.config import LABEL
from headrace.errors import HeadraceError
from headrace.files import write_private

log = logging.getLogger(__name__)

FILE = "namespaces.json"
NAMED_AT_MOST = 5
"""Of the names that are refused, so many are told; one is enough to find the fault."""


class NamespacesRefused(HeadraceError):
    """Somebody asked to admit what cannot be a namespace."""

    http_status = 422
    reason = "InvalidNamespace"
    exit_code = 2


def checked(namespaces: Iterable[str]) -> frozenset[str]:
    """Return the set. Raises NamespacesRefused, naming what is no DNS label: in a subject it could open others."""
    names = frozenset(namespaces)
    wrong = sorted(name for name in names if not LABEL.fullmatch(name))
    if wrong:
        told = ", ".join(repr(name[:80]) for name in wrong[:NAMED_AT_MOST])
        raise NamespacesRefused(f"no DNS label, so no namespace: {told}", hint="Nothing was changed")
    return names


def load(store: Path) -> frozenset[str]:
    """Return the set that was kept. One that cannot be read is empty: the operator names it again when it connects."""
    try:
        return checked(json.loads((store / FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, TypeError, NamespacesRefused) as error:
        log.warning("%s cannot be read (%s); no namespace is admitted until the operator says so", store / FILE, error)
        return frozenset()


def keep(store: Path, namespaces: frozenset[str]) -> None:
    """Write the set, at once."""
    write_private(store / FILE, json.dumps(sorted(namespaces)) + "\n")
