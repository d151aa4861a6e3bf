"""The table of endpoints: from method and path pattern to an endpoint.

A pattern has parameters in braces, each for one segment: `/v2/models/{name}/infer`. A path without parameters costs one
look-up in a dictionary; patterns are tried only for paths that are not in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import unquote

from starlette.types import Scope

PARAMETER = re.compile(r"\{(\w+)\}")
_DOTS = frozenset({".", ".."})
"""Segments that a next hop may resolve to another path."""

Endpoint = TypeVar("Endpoint")


class LiteralPath(str):
    """A path without parameters, even if it contains braces, as a user-defined name may."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class PathMatch(Generic[Endpoint]):
    """The endpoint of a request, and the parameters of its path, percent-decoded."""

    endpoint: Endpoint
    parameters: Mapping[str, str]


class PathTable(Generic[Endpoint]):
    """The endpoints of one server, by method and pattern. HEAD is served where GET is: the server omits the body."""

    def __init__(self, endpoints: Mapping[tuple[str, str], Endpoint]) -> None:
        self._exact: dict[str, dict[str, PathMatch[Endpoint]]] = {}
        """By path and method."""
        self._patterns: dict[re.Pattern[bytes], dict[str, Endpoint]] = {}
        for (method, path), endpoint in endpoints.items():
            methods = [method, *(["HEAD"] if method == "GET" else [])]
            if isinstance(path, LiteralPath) or PARAMETER.search(path) is None:
                rows = self._exact.setdefault(path, {})
                rows |= dict.fromkeys(methods, PathMatch(endpoint, {}))
            else:
                by_method = self._patterns.setdefault(_compiled(path), {})
                by_method |= dict.fromkeys(methods, endpoint)

    def match(self, scope: Scope) -> PathMatch[Endpoint] | None:
        """Return the endpoint of an HTTP request; None if there is none. Of several, an exact path, or the first."""
        exact = self._exact.get(scope["path"])
        if exact is not None and (found := exact.get(scope["method"])) is not None:
            return found
        return self._matches(scope).get(scope["method"])

    def allowed(self, scope: Scope) -> str | None:
        """Return the methods of a path for the field `Allow`; None if the path is not in the table."""
        return ", ".join({**self._exact.get(scope["path"], {}), **self._matches(scope)}) or None

    def _matches(self, scope: Scope) -> dict[str, PathMatch[Endpoint]]:
        """Return what the patterns match, by method. The raw path is matched: an encoded slash ends no segment."""
        rows: dict[str, PathMatch[Endpoint]] = {}
        for pattern, endpoints in self._patterns.items():
            found = pattern.fullmatch(scope["raw_path"])
            if found is not None:
                parameters = {name: unquote(value.decode("ascii")) for name, value in found.groupdict().items()}
                if _DOTS.isdisjoint(parameters.values()):
                    for method, endpoint in endpoints.items():
                        rows.setdefault(method, PathMatch(endpoint, parameters))
        return rows


def _compiled(path: str) -> re.Pattern[bytes]:
    literals = PARAMETER.split(path)
    """Literal text and names of parameters, alternating."""
    pattern = "".join(f"(?P<{part}>[^/]+)" if index % 2 else re.escape(part) for index, part in enumerate(literals))
    return re.compile(pattern.encode("ascii"))
