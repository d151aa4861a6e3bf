"""The password of a namespace's runtimes, which is derived and not stored.

It is derived from one key that the broker and the operator share, so the operator can create a namespace's Secret and
the broker can check the password without communication. A namespace that is deleted and recreated has the same one.
"""

from __future__ import annotations

import base64
import hmac

from headrace.broker.config import runtime_user


def runtime_password(key: str, namespace: str) -> str:
    """Return the password with which the runtimes of a namespace log in as `runtime_user(namespace)`."""
    digest = hmac.digest(key.encode(), runtime_user(namespace).encode(), "sha256")
    return base64.urlsafe_b64encode(digest).decode()
