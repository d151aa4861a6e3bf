"""What tests of several packages need."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from models.example_model import smollm2_file
from skips import fail_skipped


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return one process more than there are cores, for `-n auto`: much of the tests is waiting for other processes."""
    del config
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    del item, call
    fail_skipped((yield).get_result())


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    return smollm2_file()
