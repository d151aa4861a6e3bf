"""The secret of a runtime process, for mutual authentication with gateways.

A process generates 32 random bytes at its start and publishes them in its reports, which only gateways and the
reconcile loop can read. Two values are derived from it, so that the secret itself is never sent to an address:

- The *proof* is the response to a gateway's probe. A report may contain any address; the process at that address has
  the reported secret only if it is the process that sent the report.
- The *token* is sent by gateways with every request. Other clients that reach the port do not have it.

A restarted process has a new secret, which invalidates earlier proofs and tokens.
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
"""Distinct from the message of a proof, which begins with 32 hexadecimal digits."""


def new_secret() -> str:
    """Return a new secret in the format of `headrace.events.messages.Announcement`."""
    return secrets.token_urlsafe(_BYTES)


def new_challenge() -> str:
    """Return a new challenge for a gateway's probe."""
    return secrets.token_hex(_CHALLENGE_BYTES)


def proof(secret: str, challenge: str, namespace: str, pod: str) -> str | None:
    """Return the proof for a challenge in hexadecimal digits; None for an invalid challenge.

    It is derived from the replica's name too, so two replicas that report the same secret have different proofs.
    """
    if not _CHALLENGE.fullmatch(challenge):
        return None
    return _derived(secret, f"{challenge} {namespace}/{pod}".encode())


def token(secret: str) -> str:
    """Return the token that gateways send with each request, in hexadecimal digits."""
    return _derived(secret, _TOKEN_OF)


def _derived(secret: str, message: bytes) -> str:
    return hmac.new(secret.encode(), message, sha256).hexdigest()
