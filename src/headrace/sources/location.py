"""Where a source's file lies in the model directory, and how its URI may be shown: pure, so that everybody agrees."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import urlsplit, urlunsplit

SCHEMES = ("package", "https", "file")


def scheme_of(uri: str) -> str:
    """Return the URI's scheme, lower case."""
    return uri.partition("://")[0].lower()


def location(uri: str, digest: str | None) -> str:
    """Return the file's path relative to the model directory.

    The URI and the digest given in the spec make the directory, so that a changed source never overwrites the file
    that a running replica has open.
    """
    key = hashlib.sha256(f"{uri}\n{digest or ''}".encode()).hexdigest()[:16]
    basename = re.sub(r"[^A-Za-z0-9._-]", "_", urlsplit(uri).path.rpartition("/")[2]).lstrip(".")
    return f"{key}/{basename[:128] or 'model'}"


def redacted(uri: str) -> str:
    """Return the URI without user, password, query and fragment: what may be shown, logged and published."""
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2] if scheme_of(uri) != "package" else parts.netloc
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
