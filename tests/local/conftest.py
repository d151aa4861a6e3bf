"""Instances in a directory of their own, ended with the test."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from local.local_instance import SUSPENDED, Up

from headrace.local.home import InstanceHome


@pytest.fixture
def root() -> Iterator[Path]:
    """A short path, as a person's is."""
    root = Path(tempfile.mkdtemp(prefix="hr-"))
    yield root
    shutil.rmtree(root)


@pytest.fixture
def start(root: Path) -> Iterator[Callable[..., Up]]:
    """Start instances that are ended with the test."""
    started: list[Up] = []

    def start(*arguments: str, name: str = "default", home: Path = root) -> Up:
        started.append(Up(InstanceHome.of(name, home), arguments).start())
        return started[-1]

    yield start
    for up in started:
        if up.process.poll() is None:
            up.process.kill()
        with contextlib.suppress(ValueError):  # what it said was read already
            up.process.communicate()


@pytest.fixture
def file(root: Path) -> Path:
    path = root / "model.yaml"
    path.write_text(yaml.safe_dump(SUSPENDED))
    return path
