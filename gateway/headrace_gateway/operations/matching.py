"""Which operation a request is: the operation table, compiled.

A path without parameters costs one look-up in a dictionary. Patterns are tried only for paths that are not in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from starlette.types import Scope

from headrace_gateway.operations.operation import PARAMETER, Operation
from headrace_gateway.operations.request import RequestInfo

_DOTS = frozenset({".", ".."})
"""Segments that a replica may resolve, to a path that is no operation's."""


@dataclass(frozen=True, slots=True)
class Match:
    """The operation of a request, and the parameters of its path, percent-decoded."""

    operation: Operation
    parameters: Mapping[str, str]

    def read(self, request_id: bytes, body: bytes) -> RequestInfo:
        """Return what is known of the request once its body is there. Raises InvalidRequest."""
        public_name, stream = self.operation.read(self.parameters, body)
        return RequestInfo(request_id, self.operation, self.parameters, public_name, stream)

    def target(self) -> str:
        """Return the request target, percent-encoded."""
        return self.operation.target(self.parameters)


class OperationTable:
    """The operations that are served; iterating gives them in the order of registration."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._operations = tuple(operations)
        self._exact: dict[str, dict[str, Match]] = {}
        """By path and method. HEAD is served where GET is: the server leaves out the body."""
        self._patterns: dict[re.Pattern[bytes], dict[str, Operation]] = {}
        for operation in self._operations:
            methods = [operation.method, *(["HEAD"] if operation.method == "GET" else [])]
            if PARAMETER.search(operation.path) is None:
                rows = self._exact.setdefault(operation.path, {})
                rows |= dict.fromkeys(methods, Match(operation, {}))
            else:
                by_method = self._patterns.setdefault(_compiled(operation.path), {})
                by_method |= dict.fromkeys(methods, operation)

    def __iter__(self) -> Iterator[Operation]:
        """Iterate over the operations."""
        return iter(self._operations)

    def match(self, scope: Scope) -> Match | None:
        """Return the operation of an HTTP request; None when it is not in the table."""
        rows = self._exact.get(scope["path"])
        if rows is None:
            rows = self._matches(scope)
        return rows.get(scope["method"])

    def allowed(self, scope: Scope) -> str | None:
        """Return the methods of a path for the field `Allow`; None when the path is not in the table."""
        rows = self._exact.get(scope["path"]) or self._matches(scope)
        return ", ".join(rows) or None

    def _matches(self, scope: Scope) -> dict[str, Match]:
        """Return what the patterns say, by method. The raw path is matched: an encoded slash separates no segments."""
        for pattern, operations in self._patterns.items():
            found = pattern.fullmatch(scope["raw_path"])
            if found is not None:
                parameters = {name: unquote(value.decode("ascii")) for name, value in found.groupdict().items()}
                if not _DOTS.isdisjoint(parameters.values()):
                    return {}
                return {method: Match(operation, parameters) for method, operation in operations.items()}
        return {}


def _compiled(path: str) -> re.Pattern[bytes]:
    literals = PARAMETER.split(path)
    """Literal text and names of parameters, in turn."""
    pattern = "".join(f"(?P<{part}>[^/]+)" if index % 2 else re.escape(part) for index, part in enumerate(literals))
    return re.compile(pattern.encode("ascii"))
