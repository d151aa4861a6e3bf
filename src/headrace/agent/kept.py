"""The list of objects that an agent pins: one line for each, `<namespace>/<name of the object>`."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet

MAX_BYTES = 900_000
"""An object of the API server is smaller than 1 MiB. Objects that do not fit are not pinned."""
_LINE = re.compile(r"([a-z0-9][-a-z0-9]{0,62})/([0-9a-f]{64})")


def encode(objects: AbstractSet[tuple[str, str]]) -> str:
    """Return the list of (namespace, name)."""
    text = "".join(f"{namespace}/{name}\n" for namespace, name in sorted(objects))
    return text[: text.rfind("\n", 0, MAX_BYTES) + 1]


def decode(text: str) -> frozenset[tuple[str, str]]:
    """Return the (namespace, name) of a list; lines of another form are ignored."""
    found = (_LINE.fullmatch(line) for line in text[:MAX_BYTES].splitlines())
    return frozenset((match[1], match[2]) for match in found if match is not None)
