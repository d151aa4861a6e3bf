"""The password of a namespace's runtimes, which nobody has to keep.

It is derived from one key that the broker and the operator share, so that the operator can give it to a namespace and
the broker can check it without telling each other. A namespace that is deleted and made again has the same one.
"""

from __future__ import annotations

import base64
import hmac

from headrace.broker.config import runtime_user


def runtime_password(key: str, namespace: str) -> str:
    """Return the password with which the runtimes of a namespace log in as `runtime_user(namespace)`."""
    digest = hmac.digest(key.encode(), runtime_user(namespace).encode(), "sha256")
    return base64.urlsafe_b64encode(digest).decode()
