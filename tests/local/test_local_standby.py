"""Warm processes of a small program: what they become, and when they are started and ended."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace.environment import KEEP
from headrace.local import standby
from headrace.local.index import ObjectIndex
from headrace.local.standby import Program, StandbyPool, WarmProcess
from headrace.local.template import Launch, machine_variables
from headrace.reconcile.world import Manifest, ObjectKey

KEY = ObjectKey("Deployment", "default", "smol-1")
SCRIPT = """
import os, sys
from headrace.standby import await_launch
words, began = sys.argv[1:], "new"
if words[0] == "standby":
    words, began = await_launch(int(words[1])), "warm"
print(began, os.environ.get("WHO"), os.environ.get("EXTRA"), words, flush=True)
sys.exit(3 if words is None else 0)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def index() -> ObjectIndex:
    return ObjectIndex()


@pytest.fixture
async def pool(index: ObjectIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StandbyPool]:
    monkeypatch.setattr(standby, "REFILL_SECONDS", 0.01)
    pool = StandbyPool(index, tmp_path)
    yield pool
    pool.stop()


def pod_spec(script: Path, keep: str = "Process", **variables: str) -> Manifest:
    env = [{"name": name, "value": value} for name, value in {KEEP: keep, **variables}.items()]
    return {"containers": [{"command": [sys.executable, str(script)], "env": env}]}


def deployment(spec: Manifest) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": KEY.name, "namespace": KEY.namespace, "uid": "1"},
        "spec": {"template": {"spec": spec}},
    }


def warm(pool: StandbyPool) -> WarmProcess:
    (found,) = pool._warm.values()
    return found


async def output(pool: StandbyPool, spec: Manifest, path: Path) -> str:
    """Start a pod's process with two arguments, and return what it wrote."""
    command = [*spec["containers"][0]["command"], "serve", "--x"]
    process = pool.start(spec, Launch(command, machine_variables() | {"WHO": "pod"}), path)
    assert await process.wait() == 0
    return path.read_text()


async def test_pod_when_a_process_is_warm_then_it_becomes_that(
    index: ObjectIndex, pool: StandbyPool, script: Path, tmp_path: Path
) -> None:
    """Its arguments, its variables and its log are those of the pod, and another process waits afterwards."""
    spec = pod_spec(script, EXTRA="early")
    index.put(deployment(spec))
    first = warm(pool).process.pid
    assert await output(pool, spec, tmp_path / "a.log") == "warm pod None ['serve', '--x']\n"
    async with asyncio.timeout(10):
        while not pool._warm:
            await asyncio.sleep(0.01)
    assert warm(pool).process.pid != first
    assert "warm pod" in await output(pool, spec, tmp_path / "b.log")


async def test_pod_when_warm_process_has_died_then_new_one(
    index: ObjectIndex, pool: StandbyPool, script: Path, tmp_path: Path
) -> None:
    spec = pod_spec(script)
    index.put(deployment(spec))
    warm(pool).process.signal(signal.SIGKILL)
    await warm(pool).process.wait()
    assert (await output(pool, spec, tmp_path / "log")).startswith("new pod")


async def test_pod_when_it_keeps_no_process_then_new_one(
    index: ObjectIndex, pool: StandbyPool, script: Path, tmp_path: Path
) -> None:
    spec = pod_spec(script, keep="Weights")
    index.put(deployment(spec))
    assert not pool._warm
    assert (await output(pool, spec, tmp_path / "log")).startswith("new pod")


async def test_pool_when_deployment_is_gone_then_process_exits(
    index: ObjectIndex, pool: StandbyPool, script: Path
) -> None:
    index.put(deployment(pod_spec(script)))
    process = warm(pool).process
    index.remove(KEY)
    async with asyncio.timeout(10):
        assert await process.wait() == 3
    assert not pool._warm


def test_program_when_models_differ_then_same(script: Path) -> None:
    """What headrace sets differs by model; a user's variable may be read when a library is loaded."""
    one, other = (Program.of(pod_spec(script, HEADRACE_REVISION=name)) for name in ("a", "b"))
    assert one == other
    assert one != Program.of(pod_spec(script, OMP_NUM_THREADS="1"))
