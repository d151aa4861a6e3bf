"""s3://BUCKET/KEY and s3://BUCKET/PREFIX/: objects of S3 and of stores that are compatible with it.

The endpoint, the region and the credentials are those of the environment (`AWS_ENDPOINT_URL`, `AWS_REGION`,
`AWS_ACCESS_KEY_ID`, `AWS_WEB_IDENTITY_TOKEN_FILE`, and so on); without credentials requests are anonymous. Objects are
read in pieces, so that each request is short and has a timeout.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from headrace.errors import SourceError, SourceUnreachable
from headrace.sources.remote import RemoteFile, pieces
from headrace.sources.transfer import Interrupted, Readable

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import S3Store

T = TypeVar("T")

PIECE_BYTES = 8 * 1024 * 1024
PIECE_TIMEOUT = timedelta(seconds=60)
MAX_FILES = 1000
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


def s3_files(uri: str) -> list[RemoteFile]:
    """Return the object, or all objects below the prefix. Raises SourceUnreachable."""
    import obstore  # noqa: PLC0415 - the extra `sources`, needed for this scheme alone

    bucket, _, key = uri.removeprefix("s3://").partition("/")
    store = _store(bucket)
    if not key.endswith("/"):
        found = [_caught(uri, lambda: obstore.head(store, key))]
    else:
        listing = _caught(uri, lambda: obstore.list(store, prefix=key).collect())
        found = [meta for meta in listing if meta["path"].removeprefix(key)]
    if not found or len(found) > MAX_FILES:
        raise SourceUnreachable(f"{uri} has {len(found)} objects", hint=f"A model has between 1 and {MAX_FILES}")
    parent = key if key.endswith("/") else key.rpartition("/")[0]
    return [
        RemoteFile(
            path=meta["path"].removeprefix(parent).lstrip("/"),
            size=meta["size"],
            version=meta["e_tag"] or str(meta["last_modified"]),
            open=_opener(uri, store, meta["path"], meta["size"], meta["e_tag"]),
        )
        for meta in found
    ]


def _opener(
    uri: str, store: S3Store, path: str, size: int, tag: str | None
) -> Callable[[int], AbstractContextManager[Readable]]:
    import obstore  # noqa: PLC0415 - as above

    def piece(start: int, end: int) -> bytes:
        """Return a piece of the object, if it is still the same one."""
        options: GetOptions = {"range": (start, end)}
        if tag is not None:
            options["if_match"] = tag
        result = _caught(uri, lambda: obstore.get(store, path, options=options))
        return bytes(_caught(uri, result.bytes))

    return lambda start: pieces(piece, start, size, PIECE_BYTES)


def _store(bucket: str) -> S3Store:
    from obstore.store import S3Store  # noqa: PLC0415 - as above

    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    return S3Store(
        bucket,
        skip_signature=not any(os.environ.get(name) for name in _CREDENTIALS),
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=30),
            "timeout": PIECE_TIMEOUT,
        },
        retry_config={"max_retries": 0},  # `with_retries` does
    )


def _caught(uri: str, request: Callable[[], T]) -> T:
    """Return the request's result. Raises a SourceError for those of the library."""
    from obstore import exceptions  # noqa: PLC0415 - as above

    try:
        return request()
    except (exceptions.NotFoundError, FileNotFoundError) as error:
        raise SourceUnreachable(f"{uri} does not exist", hint="Check spec.model.source.uri") from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError) as error:
        raise SourceUnreachable(
            f"the store refuses {uri}", hint="Check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        ) from error
    except exceptions.BaseError as error:
        raise _failed(uri, error) from error


def _failed(uri: str, error: Exception) -> SourceError:
    """Return the error for a request that may succeed later; the library's first line has no secrets."""
    return Interrupted(f"{uri}: {str(error).partition(chr(10))[0][:300]}", hint="Check AWS_ENDPOINT_URL; it is retried")
