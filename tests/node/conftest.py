"""A directory for sockets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory with a short path: gRPC accepts Unix sockets with at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="hr-") as directory:
        yield Path(directory)
