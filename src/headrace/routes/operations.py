"""Names of the operations that revisions serve and clients request.

The gateway's table (`headrace_gateway.operations`) defines the requests of each operation.
"""

from __future__ import annotations

CHAT = "chat"
"""POST /v1/chat/completions"""
COMPLETIONS = "completions"
"""POST /v1/completions"""
RESPONSES = "responses"
"""POST /v1/responses"""
EMBEDDINGS = "embeddings"
"""POST /v1/embeddings"""
TOKENIZE = "tokenize"
"""POST /tokenize"""
DETOKENIZE = "detokenize"
"""POST /detokenize"""
METADATA = "metadata"
"""GET /v2/models/{model} and /v2/models/{model}/ready"""
INFER = "infer"
"""POST /v2/models/{model}/infer"""
GENERATE = "generate"
"""POST /v2/models/{model}/generate and /v2/models/{model}/generate_stream"""

TEXT = (CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS, TOKENIZE, DETOKENIZE, METADATA, INFER, GENERATE)
"""What headrace's runtimes for text models serve."""
