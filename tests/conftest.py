"""What tests of several packages need."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import yaml
from skips import fail_skipped

from headrace.sources.store import fetch

ROOT = Path(__file__).parent.parent


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
    """The example's model, in the model directory of this machine's instances, where it is found next time."""
    manifest = yaml.safe_load((ROOT / "examples/smollm2.yaml").read_text())
    home = Path(os.environ.get("HEADRACE_HOME") or Path.home() / ".local/share/headrace")
    source = manifest["spec"]["model"]["source"]
    fetched = fetch(source["uri"], home / "models", digest=source.get("digest"), progress=lambda *_: None)
    return home / "models" / fetched.path
