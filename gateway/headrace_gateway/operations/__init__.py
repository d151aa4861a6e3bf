"""The operations that clients request of models. A new one is a record in a module here, and a line in the table.

gRPC (Open Inference Protocol v2) will be terminated in the gateway, in a module `headrace_gateway.operations.grpc`: it
finds the operation of a call by its name, which routes use too, reads the model's name from the message and makes a
`RequestInfo`; the request is forwarded with the operation's method and path as JSON or tensors. `Operation` and
`RequestInfo` do not depend on the client's transport. `Match` and `OperationTable.match` are for clients of HTTP, and
`headrace_gateway.exchange.Exchange` is the client's side of an HTTP request: gRPC needs its own.
"""

from headrace_gateway.operations.matching import Match, OperationTable
from headrace_gateway.operations.oip import GENERATE, GENERATE_STREAM, INFER, METADATA, MODEL_READY
from headrace_gateway.operations.openai import CHAT, COMPLETIONS, DETOKENIZE, EMBEDDINGS, RESPONSES, TOKENIZE
from headrace_gateway.operations.operation import Body, Operation
from headrace_gateway.operations.request import RequestInfo

OPERATIONS = OperationTable(
    [
        *(CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS, TOKENIZE, DETOKENIZE),
        *(METADATA, MODEL_READY, INFER, GENERATE, GENERATE_STREAM),
    ]
)

__all__ = ["OPERATIONS", "Body", "Match", "Operation", "OperationTable", "RequestInfo"]
