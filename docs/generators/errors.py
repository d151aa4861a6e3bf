"""Errors: the classes of every package, each with its reason, HTTP status and exit code."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import walk_packages

from generators.markdown import code, table
from generators.source import CHECKOUT
from headrace.control.world import ChildRefused
from headrace.errors import HeadraceError
from headrace.http.errors import RequestError
from headrace.sources.transfer import Interrupted

PACKAGES = sorted(
    path.parent.name
    for folder in ("src", "*", "runtimes/*")
    for path in CHECKOUT.glob(f"{folder}/headrace*/__init__.py")
)
INTERNAL = frozenset({ChildRefused, Interrupted})
"""Errors that are not reported under their own reason: they become a condition, or a retry."""


def requests() -> str:
    """Return the errors of the gateway and of runtime servers; classes with one status and reason are one row."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for each in request_errors():
        found.setdefault((str(each.http_status), code(each.reason), _retry(each)), []).append(_meaning(each))
    rows = ((*key, " ".join(meanings)) for key, meanings in sorted(found.items()))
    return table(("status", "reason", "Retry-After", "meaning"), rows)


def others() -> str:
    """Return the errors of commands, fetches and runtime processes."""
    found = (each for each in classes() if not issubclass(each, RequestError))
    rows = ((code(each.reason), str(each.exit_code), str(each.http_status), _meaning(each)) for each in found)
    return table(("reason", "exit code", "HTTP status", "meaning"), rows)


def request_errors() -> list[type[RequestError]]:
    """Return the errors that a server answers a request with; those with several reasons are left out."""
    found = [each for each in classes() if issubclass(each, RequestError) and each is not RequestError]
    return [each for each in found if "reason" in vars(each) or each.__subclasses__() or "__init__" not in vars(each)]


def classes() -> Iterator[type[HeadraceError]]:
    """Yield the classes of errors, a base class before its subclasses."""
    for package in PACKAGES:
        for module in walk_packages(import_module(package).__path__, f"{package}."):
            import_module(module.name)
    waiting: list[type[HeadraceError]] = [HeadraceError]
    seen: set[type[HeadraceError]] = set()
    while waiting:
        each = waiting.pop(0)
        if each.__module__.partition(".")[0] in PACKAGES and each not in seen | INTERNAL:
            seen.add(each)
            yield each
            waiting[:0] = sorted(each.__subclasses__(), key=_module)  # else in the order of the imports


def _module(error: type[HeadraceError]) -> str:
    return error.__module__


def _retry(error: type[RequestError]) -> str:
    return f"{error.retry_after_seconds} s" if error.retry_after_seconds is not None else ""


def _meaning(error: type[HeadraceError]) -> str:
    return (error.__doc__ or "").partition("\n\n")[0]
