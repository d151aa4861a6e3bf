"""The namespaces whose runtimes may log in: a set that the operator sends, persisted on the volume."""

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
MAX_NAMED = 5
"""Longest list of invalid names in a message."""


class NamespacesRefused(HeadraceError):
    """A set of namespaces contains an invalid name."""

    http_status = 422
    reason = "InvalidNamespace"
    exit_code = 2


def checked(namespaces: Iterable[str]) -> frozenset[str]:
    """Return the set. Raises NamespacesRefused for a name that is no DNS label, which could be a wildcard subject."""
    names = frozenset(namespaces)
    wrong = sorted(name for name in names if not LABEL.fullmatch(name))
    if wrong:
        names_shown = ", ".join(repr(name[:80]) for name in wrong[:MAX_NAMED])
        raise NamespacesRefused(f"not a DNS label, so not a namespace: {names_shown}", hint="Nothing was changed")
    return names


def load(store: Path) -> frozenset[str]:
    """Return the persisted set; empty if it cannot be read, because the operator sends it again when it connects."""
    try:
        return checked(json.loads((store / FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, TypeError, NamespacesRefused) as error:
        log.warning("cannot read %s (%s); no namespace is admitted until the operator connects", store / FILE, error)
        return frozenset()


def keep(store: Path, namespaces: frozenset[str]) -> None:
    """Write the set atomically."""
    write_private(store / FILE, json.dumps(sorted(namespaces)) + "\n")
