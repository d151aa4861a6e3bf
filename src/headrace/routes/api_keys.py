"""API keys: their form, and their entry in the bucket `headrace-keys`.

A key contains the namespace that it gives access to: `hr_<namespace>_<random>`. A Secret holds the SHA-256 of the whole
key, and the name of its entry in the bucket is the Secret's namespace and that digest. A gateway looks up a key in the
namespace that the key contains. So a Secret with the digest of another namespace's key gives no access and cannot
replace that key: the two entries have different names, and the order of events does not matter.
"""

from __future__ import annotations

import re
import secrets
from hashlib import sha256

FORM = "hr_<namespace>_<random>"
RANDOM_BYTES = 32
"""256 bits: a brute-force search is infeasible, so the digest needs no salt and no slow hash."""
_KEY = re.compile(rb"hr_([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)_[A-Za-z0-9_-]+")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def new_key(namespace: str) -> str:
    """Return a new API key of a namespace."""
    return f"hr_{namespace}_{secrets.token_urlsafe(RANDOM_BYTES)}"


def digest_of(key: str) -> str:
    """Return the digest of a key that its Secret holds."""
    return sha256(key.encode()).hexdigest()


def is_digest(text: str) -> bool:
    """Whether a text is a valid digest for a Secret."""
    return _DIGEST.fullmatch(text) is not None


def entry_name(namespace: str, digest: str) -> str:
    """Return the name of a key's entry in the bucket."""
    return f"{namespace}.{digest}"


def entry_of(key: bytes) -> str | None:
    """Return the name of the entry of a key; None if it does not have the form of a key."""
    found = _KEY.fullmatch(key)
    return None if found is None else entry_name(found[1].decode(), sha256(key).hexdigest())
