from __future__ import annotations

import asyncio
import time

import pytest
from serving.serving_echo import EchoEngine
from serving.serving_processes import until

from headrace.events.messages import ReplicaState
from headrace.serving.engine import TextEngine
from headrace.serving.errors import ClientGone, Draining, EngineDied, NotLoaded
from headrace.serving.replica import Replica, ReplicaStatus


def loaded() -> Replica[TextEngine]:
    replica: Replica[TextEngine] = Replica()
    replica.loaded(EchoEngine(step_seconds=0))
    return replica


async def test_life_then_each_change_is_told_once() -> None:
    replica: Replica[TextEngine] = Replica()
    told: list[ReplicaStatus] = []
    replica.listen(lambda: told.append(replica.status))

    replica.progress("loading-weights", 10)
    replica.progress("loading-weights", 10)
    replica.loaded(EchoEngine(step_seconds=0))
    replica.progress("too late", 99)
    replica.drain()

    assert told == [
        ReplicaStatus(ReplicaState.LOADING, "loading-weights", 10),
        ReplicaStatus(ReplicaState.READY, ""),
        ReplicaStatus(ReplicaState.DRAINING, ""),
    ]


def test_stages_when_loaded_then_each_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that comes again is counted once, with the sum; progress within a stage does not end it."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    replica: Replica[TextEngine] = Replica()
    for stage, percent in (("reading", None), ("packing", 1), ("packing", 60), ("reading", None)):
        now += 0.25
        replica.progress(stage, percent)
    now += 1
    replica.loaded(EchoEngine(step_seconds=0))
    replica.drain()
    assert replica.stages == {"starting": 250, "reading": 1250, "packing": 500}


async def test_work_when_not_loaded_then_it_is_refused() -> None:
    with pytest.raises(NotLoaded):
        async with Replica[TextEngine]().work():
            pass


async def test_work_when_draining_then_it_is_admitted_until_refused() -> None:
    replica = loaded()
    replica.drain()
    async with replica.work():
        assert not replica.ready

    replica.refuse()

    with pytest.raises(Draining):
        async with replica.work():
            pass


async def test_work_when_the_engine_is_dead_then_it_is_refused() -> None:
    replica = loaded()
    assert replica.engine is not None
    await replica.engine.close()

    with pytest.raises(EngineDied):
        async with replica.work():
            pass
    assert not replica.alive


async def test_work_when_stopped_then_it_ends_with_the_first_cause() -> None:
    replica = loaded()

    async def stop_in_it() -> None:
        async with replica.work() as work:
            work.stop(ClientGone())
            work.stop(Draining("too late"))
            await asyncio.Event().wait()

    with pytest.raises(ClientGone):
        await stop_in_it()
    assert replica.running == 0


async def test_work_when_cut_off_then_the_replica_is_idle() -> None:
    replica = loaded()

    async def wait_in_it() -> None:
        async with replica.work():
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(wait_in_it()) for _ in range(3)]
    await until(lambda: replica.running == 3, "all run")
    assert not await replica.idle(0)

    replica.cut_off(Draining("the end"))

    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, Draining) for result in results)
    assert await replica.idle(0)


async def test_work_when_it_times_out_then_its_own_error() -> None:
    with pytest.raises(TimeoutError):
        async with loaded().work():
            raise TimeoutError


async def test_work_when_its_task_is_cancelled_then_it_is_cancelled() -> None:
    replica = loaded()

    async def wait_in_it() -> None:
        async with replica.work():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait_in_it())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert replica.running == 0


def test_first_token_when_it_comes_then_is_the_last_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reported at once, and once; a token while the model loads is none of an answer."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    replica: Replica[TextEngine] = Replica()
    replica.first_token()
    replica.loaded(EchoEngine(step_seconds=0))
    changes: list[ReplicaState] = []
    replica.listen(lambda: changes.append(replica.status.state))
    for _ in range(2):
        now += 0.5
        replica.first_token()
    assert (replica.stages, changes) == ({"starting": 0, "first-token": 500}, [ReplicaState.READY])
