"""Limits of request bodies: size, time and encodings."""

from __future__ import annotations

from codecs import BOM_UTF8

from headrace.http.errors import BodyTooLarge, UnsupportedContentEncoding

MAX_BODY_BYTES = 4 * 1024 * 1024
"""A prompt of 128 k tokens is about half a megabyte of text, and JSON may double it. Larger prompts
exceed any model and would only keep the event loop busy. The default of gateways and runtimes."""
MAX_DISCARDED_BYTES = 4 * MAX_BODY_BYTES
"""A body that is too large is read up to here and discarded: a client that is still sending when its connection is
closed gets a reset instead of the error."""
BODY_SECONDS = 30.0
"""A body of that size in this time is slower than any mobile network; without a limit a client could occupy a
connection for ever."""


def check_encoding(content_encoding: bytes) -> None:
    """Raise UnsupportedContentEncoding for a compressed body."""
    if content_encoding and content_encoding.strip().lower() != b"identity":
        given = content_encoding.decode("latin-1")[:80]
        raise UnsupportedContentEncoding(
            f"the body has `Content-Encoding: {given}`, and only uncompressed bodies are read",
            hint="Send the JSON as it is, without Content-Encoding",
        )


def too_large(limit: int) -> BodyTooLarge:
    """Return the error of a body with more than `limit` bytes."""
    return BodyTooLarge(f"the body is larger than {limit} bytes", hint="Send a shorter prompt")


def without_bom(body: bytes) -> bytes:
    """Return the body without the byte order mark that some editors write; JSON has none (RFC 8259 §8.1)."""
    return body.removeprefix(BOM_UTF8)
