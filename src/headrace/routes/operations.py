"""Names of the operations that revisions serve and clients request.

The gateway's table (`headrace_gateway.operations`) defines the requests of each operation.
"""

from __future__ import annotations

CHAT = "chat"
"""POST /v1/chat/completions"""
COMPLETIONS = "completions"
"""POST /v1/completions"""
