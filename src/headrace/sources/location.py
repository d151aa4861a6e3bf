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
S3_URI = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/([A-Za-z0-9_][A-Za-z0-9._+=@-]*/)*[A-Za-z0-9_][A-Za-z0-9._+=@-]*/?$"
"""An object; with a final slash, all objects below that prefix."""
HF_URI = (
    r"^hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9._-]*)?"
    r"(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$"
)
"""ORGANISATION/REPOSITORY, the revision, and the path of one file; without a path, the model's directory."""
OCI_URI = (
    r"^oci://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*)+"
    r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|@sha256:[0-9a-f]{64})?$"
)
"""REGISTRY/REPOSITORY with a tag (default: latest) or the digest of the manifest, as the distribution specification
writes them."""
FETCHED_URIS = (PACKAGE_URI, HTTPS_URI, FILE_URI, S3_URI, HF_URI, OCI_URI)
"""Of sources that a fetch copies into the model directory."""
URIS = (*FETCHED_URIS, PVC_URI)
_REMOTE_FORMS = (
    "package://DISTRIBUTION@VERSION/PATH, https://HOST/PATH, s3://BUCKET/KEY, hf://ORGANISATION/REPOSITORY, "
    "oci://REGISTRY/REPOSITORY"
)
FETCHED_FORMS = f"{_REMOTE_FORMS} or file:///PATH"
FORMS = f"{_REMOTE_FORMS}, pvc://CLAIM/PATH or file:///PATH"
"""All of them for messages."""
SCHEMES = ("package", "https", "s3", "hf", "oci", "pvc", "file")
SCHEMES_WITH_CREDENTIALS = frozenset({"s3", "hf", "oci"})
"""Schemes whose endpoint and credentials are environment variables of the fetch."""


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


def is_directory(uri: str) -> bool:
    """Whether the URI alone says that the source is a directory of files; an oci:// artifact is one or the other."""
    scheme, _, rest = uri.partition("://")
    return (scheme in ("s3", "file") and rest.endswith("/")) or (scheme == "hf" and rest.count("/") == 1)


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
