"""How much of a body is read, for how long, and in which encodings."""

from __future__ import annotations

from codecs import BOM_UTF8

from headrace.http.errors import BodyTooLarge, UnsupportedContentEncoding

MAX_BODY_BYTES = 4 * 1024 * 1024
"""A prompt of 128 k tokens is about half a megabyte of text, and JSON may double it. Much more than the model can take
would only keep the event loop busy with counting its tokens. The default of gateways and runtimes."""
MAX_DISCARDED_BYTES = 4 * MAX_BODY_BYTES
"""A body that is too large is read up to here and thrown away: a client that is still sending when its connection is
closed sees a reset instead of the answer that explains it."""
BODY_SECONDS = 30.0
"""A body of that size in this time is slower than any mobile network; without a bound a client could hold a
connection for ever."""


def check_encoding(content_encoding: bytes) -> None:
    """Raise UnsupportedContentEncoding for a body that would have to be decompressed first."""
    if content_encoding and content_encoding.strip().lower() != b"identity":
        given = content_encoding.decode("latin-1")[:80]
        raise UnsupportedContentEncoding(
            f"the body has `Content-Encoding: {given}`, and only uncompressed bodies are read",
            hint="Send the JSON as it is, without Content-Encoding",
        )


def too_large(limit: int) -> BodyTooLarge:
    """Return the error of a body of more than so many bytes."""
    return BodyTooLarge(f"the body is larger than {limit} bytes", hint="Send a shorter prompt")


def without_bom(body: bytes) -> bytes:
    """Return the body without the byte order mark that some editors put before UTF-8; JSON has none (RFC 8259 §8.1)."""
    return body.removeprefix(BOM_UTF8)
