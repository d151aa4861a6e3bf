"""From zero and back, with conditions that tell the truth at each step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from acceptance.acceptance_instance import Instance, model
from acceptance.acceptance_world import LocalWorld
from behaviours.behaviours_world import SCALING
from behaviours.behaviours_zero import ZeroBehaviour

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def zero(tmp_path_factory: pytest.TempPathFactory, smollm2_path: Path) -> Iterator[LocalWorld]:
    instance = Instance(tmp_path_factory.mktemp("z")).start()
    instance.apply(model(smollm2_path, scaling=SCALING))
    yield LocalWorld(instance, smollm2_path)
    assert instance.stop() == 0, instance.said()


class TestZero(ZeroBehaviour):
    pass


def test_scale_command_when_scaling_decides_then_says_it_ignored(zero: LocalWorld) -> None:
    assert "ignored" in zero.instance.run("scale", "mdep/smol", "--replicas", "3").stderr
