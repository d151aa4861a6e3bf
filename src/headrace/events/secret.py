"""The secret of one runtime process: it authenticates the process to gateways, and gateways to the process.

A process makes 32 random bytes at its start and publishes them in its reports, which gateways and the reconcile loop
alone can read. Two values are derived from it, so that the secret itself is never sent to an address:

- The *proof* answers a gateway's probe. A report may name any address; the process there has the reported secret only
  if it is the process that reported.
- The *token* is sent by gateways with every request. Whoever else reaches the port does not have it.

A restarted process has a new secret: proofs and tokens of the old one are not valid for it.
"""

from __future__ import annotations

import hmac
import re
import secrets
from hashlib import sha256

_BYTES = 32
_CHALLENGE_BYTES = 16
_CHALLENGE = re.compile(r"[0-9a-f]{32}")
_TOKEN_OF = b"token"
"""Cannot be confused with what a proof is of: that begins with 32 hexadecimal digits."""


def new_secret() -> str:
    """Return the secret of a process that starts, as `headrace.events.messages.Announcement` carries it."""
    return secrets.token_urlsafe(_BYTES)


def new_challenge() -> str:
    """Return what a gateway sends with a probe."""
    return secrets.token_hex(_CHALLENGE_BYTES)


def proof(secret: str, challenge: str, namespace: str, pod: str) -> str | None:
    """Return the answer to a challenge in hexadecimal digits; None to what is no challenge.

    It names the replica, so that no two claims of one secret can be confused.
    """
    if not _CHALLENGE.fullmatch(challenge):
        return None
    return _derived(secret, f"{challenge} {namespace}/{pod}".encode())


def token(secret: str) -> str:
    """Return what gateways send with each request, in hexadecimal digits."""
    return _derived(secret, _TOKEN_OF)


def _derived(secret: str, message: bytes) -> str:
    return hmac.new(secret.encode(), message, sha256).hexdigest()
