"""Path of a source's file in the model directory, and the URI without secrets. Pure, and used by all components.

No function here raises for any URI, because the reconcile loop calls them with unvalidated input.
"""

from __future__ import annotations

import hashlib
import re

PACKAGE_URI = r"^package://[A-Za-z0-9][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9.!+_-]*/[^/].*$"
HTTPS_URI = r"^https://[^/]+/.+$"
PVC_URI = r"^pvc://[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?(/[A-Za-z0-9_][A-Za-z0-9._+=@-]*)+$"
"""A path of plain names, without `..` and hidden files."""
FILE_URI = r"^file:///.+$"


SCHEMES = ("package", "https", "pvc", "file")


def scheme_of(uri: str) -> str:
    """Return the URI's scheme in lower case."""
    return uri.partition("://")[0].lower()


def location(uri: str, digest: str | None) -> str:
    """Return the file's path relative to the model directory.

    The directory depends on the URI and the digest of the spec, so that a changed source never overwrites the file
    that a running replica has open. The path of a file in a claim is that in the claim, which is mounted there.
    """
    if claim_of(uri) is not None:
        return _parts(uri)[1]
    key = hashlib.sha256(f"{uri}\n{digest or ''}".encode(errors="replace")).hexdigest()[:16]
    basename = re.sub(r"[^A-Za-z0-9._-]", "_", _bare(uri).rpartition("/")[2]).lstrip(".")
    return f"{key}/{basename[:128] or 'model'}"


def claim_of(uri: str) -> str | None:
    """Return the PersistentVolumeClaim of the file; None if the file must be fetched."""
    return _parts(uri)[0] if re.fullmatch(PVC_URI, uri) else None


def redacted(uri: str) -> str:
    """Return the URI without user, password, query and fragment, for messages, logs and the status."""
    scheme, separator, rest = _bare(uri).partition("://")
    authority, slash, path = rest.partition("/")
    if scheme_of(uri) != "package":  # where @ precedes the version
        authority = authority.rpartition("@")[2]
    return f"{scheme}{separator}{authority}{slash}{path}"


def _parts(uri: str) -> list[str]:
    """Return the claim and the path in it."""
    return uri.removeprefix("pvc://").split("/", 1)


def _bare(uri: str) -> str:
    """Return the URI without query and fragment; `urlsplit` would raise for some texts."""
    return re.split(r"[?#]", uri, maxsplit=1)[0]
