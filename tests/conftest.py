"""What tests of several packages need."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from models.example_model import smollm2_file
from skips import fail_skipped

# On shared cores time is no evidence: neither an example nor its generation fails for being slow.
settings.register_profile("headrace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("headrace")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return one process more than there are cores, for `-n auto`: much of the tests is waiting for other processes."""
    del config
    return (os.cpu_count() or 1) + 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gemma", type=Path, metavar="FOLDER", help="run the tests of Gemma 3 too, with these packages")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of what `make test` does not download."""
    if config.getoption("--gemma") is None:
        unwanted = [item for item in items if item.get_closest_marker("gemma")]
        items[:] = [item for item in items if item not in unwanted]
        config.hook.pytest_deselected(items=unwanted)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    del item, call
    fail_skipped((yield).get_result())


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    return smollm2_file()
