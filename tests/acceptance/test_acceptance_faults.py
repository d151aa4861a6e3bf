"""`kill -9` of each part of an instance while requests run, and what is left of one that ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from acceptance.acceptance_instance import Instance, model
from acceptance.acceptance_world import LocalWorld
from behaviours.behaviours_faults import FaultBehaviour
from behaviours.behaviours_traffic import post, short
from behaviours.behaviours_world import until

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, smollm2_path: Path) -> Iterator[LocalWorld]:
    instance = Instance(tmp_path_factory.mktemp("f")).start()
    instance.apply(model(smollm2_path))
    instance.headrace("wait", "mdep/smol", "--timeout", "90s")
    yield LocalWorld(instance, smollm2_path)
    assert instance.stop() == 0, instance.said()


class TestFaults(FaultBehaviour):
    pass


def test_supervisor_when_killed_then_children_end_no_data_lost(own_home: Path, smollm2_path: Path) -> None:
    instance = Instance(own_home).start()
    instance.apply(model(smollm2_path))
    instance.headrace("wait", "mdep/smol", "--timeout", "90s")
    children = [pid for pid in instance.processes() if pid != instance.process.pid]
    assert len(children) >= 3, "NATS, the gateway and a replica"
    instance.kill()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "every child is gone", 5)
    again = Instance(own_home).start()
    try:
        assert again.names() == ["smol"]
        again.headrace("wait", "mdep/smol", "--timeout", "90s")
        assert post(LocalWorld(again, smollm2_path), "/completions", short())[0] == 200
    finally:
        assert again.stop() == 0, again.said()


def test_instance_when_stopped_then_nothing_of_it_is_left(own_home: Path, smollm2_path: Path) -> None:
    instance = Instance(own_home).start()
    instance.apply(model(smollm2_path))
    instance.headrace("wait", "mdep/smol", "--timeout", "90s")
    processes = instance.processes()
    shared = set(Path("/dev/shm").iterdir())
    assert instance.stop() == 0, instance.said()
    assert not any(Path(f"/proc/{pid}").exists() for pid in processes)
    assert set(Path("/dev/shm").iterdir()) <= shared
    assert not (instance.directory / "headrace.sock").exists()


def test_instances_when_two_run_side_by_side_then_no_collision(own_home: Path, smollm2_path: Path) -> None:
    left, right = Instance(own_home, name="left").start(), Instance(own_home, name="right").start()
    try:
        left.apply(model(smollm2_path))
        left.headrace("wait", "mdep/smol", "--timeout", "90s")
        assert right.names() == []
        assert left.url != right.url
        assert post(LocalWorld(right, smollm2_path), "/completions", short())[0] == 404
        assert post(LocalWorld(left, smollm2_path), "/completions", short())[0] == 200
    finally:
        assert (left.stop(), right.stop()) == (0, 0)
