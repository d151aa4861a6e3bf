"""An object store for the tests of this folder; a file that needs other limits has a `world` of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from store.store_world import StoreThread

from headrace.store.client import Store


@pytest.fixture
def world(tmp_path: Path) -> Iterator[StoreThread]:
    with StoreThread(tmp_path) as thread:
        yield thread


@pytest.fixture
def store(world: StoreThread) -> Iterator[Store]:
    with world.open() as client:
        yield client
