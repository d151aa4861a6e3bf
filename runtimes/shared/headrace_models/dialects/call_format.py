"""The record of a format of tool calls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallFormat:
    """How a model writes tool calls: JSON objects with a name and arguments, between markers.

    Readers accept whitespace between all parts. `first`, `between` and `last` are what a model was trained to write,
    exactly, for a grammar.
    """

    opening: str
    """Marker before calls."""
    bare: bool
    """Whether an answer may also begin with a call, without the marker."""
    list_opening: str
    """Text between the marker and the first call."""
    separator: str
    """Text between calls after one marker; empty: there is one call after a marker."""
    closing: str
    """Text after the calls of a marker."""
    arguments: str
    """The key of the arguments."""
    first: str
    """What is written before the first call, with the marker."""
    between: str
    """What is written between two calls."""
    last: str
    """What is written after the last call."""
    short_ids: bool = False
    """Whether the chat template requires ids of nine letters and digits."""
