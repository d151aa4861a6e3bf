"""Names of operations: what a revision serves, and a client can request of it.

The gateway's table (`headrace_gateway.operations`) says how each is requested.
"""

from __future__ import annotations

CHAT = "chat"
"""POST /v1/chat/completions"""
COMPLETIONS = "completions"
"""POST /v1/completions"""
