"""Classes and keys of objects."""

from __future__ import annotations

import hashlib
import re
import secrets
from enum import StrEnum

from typing_extensions import Buffer

from headrace.store.errors import InvalidObject


class ObjectClass(StrEnum):
    """What an object is for; each class has its own quota."""

    WEIGHTS = "weights"
    EXPERTS = "experts"
    KV = "kv"
    ASSETS = "assets"
    UPDATES = "updates"


_RANDOM_BYTES = 16
_KEY = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def content_key(content: Buffer) -> str:
    """Return the key of an object that is addressed by its content: SHA-256, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def random_key() -> str:
    """Return an unguessable key: 16 random bytes, 32 hexadecimal digits."""
    return secrets.token_hex(_RANDOM_BYTES)


def checked_key(value: object) -> str:
    """Return a key. Raises InvalidObject."""
    if not isinstance(value, str) or not _KEY.fullmatch(value):
        raise InvalidObject("key: not 32 (random) or 64 (SHA-256) lower-case hexadecimal digits")
    return value


def checked_digest(value: object) -> str:
    """Return a digest. Raises InvalidObject."""
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise InvalidObject("digest: not 64 lower-case hexadecimal digits (SHA-256)")
    return value


def checked_name(value: object) -> str:
    """Return the name of an object. Raises InvalidObject."""
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise InvalidObject("name: not 64 lower-case hexadecimal digits (SHA-256)")
    return value


def checked_class(value: object) -> ObjectClass:
    """Return a class. Raises InvalidObject."""
    try:
        return ObjectClass(str(value))
    except ValueError:
        raise InvalidObject(f"class: {value!r:.40} is none of {', '.join(ObjectClass)}") from None
