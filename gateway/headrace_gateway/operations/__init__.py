"""The operations that clients request of models. A new one is a record in a module here, and a line in the table."""

from headrace_gateway.operations.matching import Match, OperationTable
from headrace_gateway.operations.openai import CHAT, COMPLETIONS
from headrace_gateway.operations.operation import Body, Operation
from headrace_gateway.operations.request import RequestInfo

OPERATIONS = OperationTable([CHAT, COMPLETIONS])

__all__ = ["OPERATIONS", "Body", "Match", "Operation", "OperationTable", "RequestInfo"]
