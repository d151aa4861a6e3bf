"""One instance for the tests that leave it as they found it; tests that break things start their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from acceptance.acceptance_instance import Instance, model
from acceptance.acceptance_world import LocalWorld
from behaviours.behaviours_world import Engine

BEHAVIOURS = Path(__file__).parents[1] / "behaviours"


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory, smollm2_path: Path) -> Iterator[Instance]:
    """An instance with the model `smol`, one replica, always there."""
    home = tmp_path_factory.mktemp("h")
    running = Instance(home).start()
    running.apply(model(smollm2_path))
    running.headrace("wait", "mdep/smol", "--timeout", "90s")
    yield running
    assert running.stop() == 0, running.said()


@pytest.fixture
def served(instance: Instance, smollm2_path: Path) -> LocalWorld:
    return LocalWorld(instance, smollm2_path)


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Another's engine, out of this environment."""
    weights = tmp_path_factory.mktemp("weights")
    subprocess.run([sys.executable, BEHAVIOURS / "behaviours_weights.py", weights], check=True)
    return Engine("an-engine:1", str(weights))


@pytest.fixture
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a short path: a Unix socket lies in it."""
    return tmp_path_factory.mktemp("o")
