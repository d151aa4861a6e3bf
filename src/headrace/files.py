"""Writing files that others read."""

from __future__ import annotations

import os
from pathlib import Path

_PRIVATE = 0o600


def write_private(path: Path, text: str) -> None:
    """Replace a file at once by one that only this user may read."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _PRIVATE)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        os.fchmod(fd, _PRIVATE)
        file.write(text)
    temporary.replace(path)
