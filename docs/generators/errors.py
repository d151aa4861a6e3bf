"""Errors: the classes of every module `errors`, each with its reason, HTTP status and exit code."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from generators.markdown import code, table
from generators.source import CHECKOUT
from headrace.errors import HeadraceError
from headrace.http.errors import RequestError

MODULES = tuple(
    ".".join(path.relative_to(folder).with_suffix("").parts)
    for folder in (CHECKOUT / "src", *CHECKOUT.glob("*"), *CHECKOUT.glob("runtimes/*"))
    for path in sorted((*folder.glob("headrace*/errors.py"), *folder.glob("headrace*/*/errors.py")))
)


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
    """Yield the classes of errors, a base class before its subclasses; these in the order of modules, then of lines.

    Not in the order of imports, which differs between `make docs` and a process that has imported some of them.
    """
    for module in MODULES:
        import_module(module)
    waiting: list[type[HeadraceError]] = [HeadraceError]
    seen: set[type[HeadraceError]] = set()
    while waiting:
        each = waiting.pop(0)
        if each not in seen:
            seen.add(each)
            yield each
            known = [sub for sub in each.__subclasses__() if sub.__module__ in MODULES]
            waiting[:0] = sorted(known, key=lambda sub: MODULES.index(sub.__module__))


def _retry(error: type[RequestError]) -> str:
    return f"{error.retry_after_seconds} s" if error.retry_after_seconds is not None else ""


def _meaning(error: type[HeadraceError]) -> str:
    return (error.__doc__ or "").partition("\n\n")[0]
