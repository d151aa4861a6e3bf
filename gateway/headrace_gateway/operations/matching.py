"""The operation table: from an HTTP request to its operation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from starlette.types import Scope

from headrace.http.paths import PathTable
from headrace_gateway.operations.operation import Operation
from headrace_gateway.operations.request import RequestInfo


@dataclass(frozen=True, slots=True)
class Match:
    """The operation of a request, and the parameters of its path, percent-decoded."""

    operation: Operation
    parameters: Mapping[str, str]

    def read(self, request_id: bytes, body: bytes) -> RequestInfo:
        """Return the request's properties from its path and body. Raises InvalidRequest."""
        public_name, stream = self.operation.read(self.parameters, body)
        return RequestInfo(request_id, self.operation, self.parameters, public_name, stream)

    def target(self) -> str:
        """Return the request target, percent-encoded."""
        return self.operation.target(self.parameters)


class OperationTable:
    """The served operations; iterated in the order of registration."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._operations = tuple(operations)
        self._paths = PathTable({(each.method, each.path): each for each in self._operations})

    def __iter__(self) -> Iterator[Operation]:
        """Iterate over the operations."""
        return iter(self._operations)

    def match(self, scope: Scope) -> Match | None:
        """Return the operation of an HTTP request; None when it is not in the table."""
        found = self._paths.match(scope)
        return None if found is None else Match(found.endpoint, found.parameters)

    def allowed(self, scope: Scope) -> str | None:
        """Return the methods of a path for the field `Allow`; None when the path is not in the table."""
        return self._paths.allowed(scope)
