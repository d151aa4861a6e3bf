"""The loop against a real broker: what it publishes, what it hears, and what it does when either side fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from control.control_world import KEY, Broker, DictWorld, until
from nats.aio.client import Client
from nats.js.errors import BucketNotFoundError, KeyNotFoundError

from headrace.control import loop as loop_module
from headrace.control.buckets import BucketWriter
from headrace.control.loop import ControlLoop
from headrace.control.signals import SignalStore
from headrace.events import subjects
from headrace.events.connection import connect, publish_if_connected
from headrace.events.messages import Announcement, Demand, FetchProgress, ReplicaState
from headrace.reconcile.world import Settings
from headrace.routes import KeyGrant, Route

ROUTE = f"{KEY.namespace}.{KEY.name}"

CHILDREN = {"Deployment", "Job", "NetworkPolicy", "Service", "ServiceAccount"}


class Control:
    """A running loop, its world and its broker."""

    def __init__(self) -> None:
        self.broker = Broker()
        self.world = DictWorld()
        self.client: Client
        self.loop: ControlLoop
        self._running: asyncio.Task[None]

    async def start(self) -> None:
        self.client = await connect(
            self.broker.url,
            name="reconciler",
            on_reconnect=lambda: self.loop.reconnected(),  # noqa: PLW0108 - the loop is made after the client
        )
        settings = Settings("http://gateway", self.broker.url, "/models", platform_namespace="ours")
        self.loop = ControlLoop(self.world, self.client, settings)
        self._running = asyncio.create_task(self.loop.run())

    async def stop(self) -> None:
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running
        await self.client.close()

    async def route(self) -> Route | None:
        try:
            bucket = await self.client.jetstream(timeout=1).key_value(subjects.ROUTES_BUCKET)
            value = (await bucket.get(ROUTE)).value
        except (BucketNotFoundError, KeyNotFoundError, TimeoutError):
            return None
        return Route.decode(value or b"")

    async def has_route(self) -> bool:
        return await self.route() is not None

    async def has_no_route(self) -> bool:
        return not await self.has_route()

    async def say_presence(self) -> None:
        await self.client.publish(f"$KV.{subjects.GATEWAYS_BUCKET}.gateway-1", b"1")


@pytest.fixture
async def control() -> AsyncIterator[Control]:
    running = Control()
    running.broker.start()
    await running.start()
    yield running
    await running.stop()
    running.broker.stop()


async def test_resource_when_added_then_its_children_and_route_exist(control: Control) -> None:
    control.world.add()
    await until(control.has_route, "the route is written")
    assert {key.kind for key in control.world.children} == CHILDREN
    route = await control.route()
    assert route is not None
    assert route.public_name == "smollm2-135m-instruct"


async def test_resource_when_removed_then_its_children_and_route_go(control: Control) -> None:
    control.world.add()
    await until(control.has_route, "the route is written")
    control.world.remove()
    await until(control.has_no_route, "the route is gone")
    assert control.world.children == {}


async def test_settled_when_it_returns_then_the_route_is_written(control: Control) -> None:
    control.world.add()
    await control.loop.settled()
    assert await control.has_route()


async def test_bucket_when_somebody_deletes_it_then_written_again(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.control.buckets.AUDIT_SECONDS", 0.2)
    control.world.add()
    await until(control.has_route, "the route is written")
    control.world.tell(None)
    await control.client.jetstream().delete_key_value(subjects.ROUTES_BUCKET)
    control.world.resources[KEY]["metadata"]["generation"] = 2
    await until(control.has_route, "the route is written again")


async def test_route_when_left_by_earlier_loop_then_removed_after_sync(control: Control) -> None:
    """It goes once every resource was reconciled."""
    control.world.add()
    await until(control.has_route, "the route is written")
    await control.stop()
    control.world.resources.clear()
    control.world.children.clear()
    await control.start()
    await until(control.has_no_route, "the stale route is gone")


async def test_broker_when_back_then_changes_meanwhile_are_published(control: Control) -> None:
    await control.loop.settled()
    control.broker.kill()
    control.world.add()
    control.broker.start()
    await until(control.has_route, "the route is written after the broker's return")


async def test_apply_when_it_fails_then_retried_and_others_not_delayed(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "FIRST_BACKOFF_SECONDS", 0.05)
    control.world.broken = True
    control.world.add()
    await asyncio.sleep(0)
    control.world.broken = False
    await until(control.has_route, "the route is written when the world is mended")


@pytest.mark.parametrize("served_before", [False, True])
async def test_passes_when_they_keep_failing_then_the_status_says_why(
    control: Control, monkeypatch: pytest.MonkeyPatch, *, served_before: bool
) -> None:
    """Whatever it is that fails: also a new spec of an idle model is not Ready before it was carried out."""
    monkeypatch.setattr(loop_module, "FIRST_BACKOFF_SECONDS", 0.02)

    async def idle() -> bool:
        await control.say_presence()
        return control.world.condition("Ready").get("reason") == "Idle"

    async def told() -> bool:
        await control.say_presence()
        ready = control.world.condition("Ready")
        generation = control.world.resources[KEY]["metadata"]["generation"]
        said = (ready.get("status"), ready.get("reason"), ready.get("observedGeneration"))
        return said == ("False", "ReconcileFailed", generation)

    if served_before:
        control.world.add()
        await control.loop.settled()
        control.world.finish_fetch()
        await until(idle, "the model is at zero")
    control.world.broken = True
    if served_before:
        control.world.change()
    else:
        control.world.add()
    await until(told, lambda: f"it is told: {control.world.condition('Ready')}")
    assert "the world is broken" in control.world.condition("Progressing")["message"]
    assert len(control.world.resources[KEY]["status"]["conditions"]) == 7
    control.world.broken = False
    await until(lambda: _is(control, "Progressing", "Stable"), "the next pass succeeds")


async def _is(control: Control, type_: str, reason: str) -> bool:
    return control.world.condition(type_).get("reason") == reason


async def test_passes_when_failing_after_applied_spec_then_ready(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "FIRST_BACKOFF_SECONDS", 0.02)
    control.world.add()
    await control.loop.settled()
    before = control.world.condition("Ready")
    control.world.broken = True
    control.world.tell(KEY)
    await until(lambda: _is(control, "Progressing", "ReconcileFailed"), "it is told")
    assert control.world.condition("Ready") == before


async def test_apply_when_a_child_is_refused_then_status_says_why(
    control: Control,
) -> None:
    """The other children are applied."""
    control.world.refused = {"Deployment"}
    control.world.add()

    async def told() -> bool:
        return control.world.condition("WorkloadsReady").get("reason") == "Refused"

    await until(told, "the condition says that it is refused")
    assert "must be less than the limit" in control.world.condition("WorkloadsReady")["message"]
    assert {key.kind for key in control.world.children} >= {"Job", "Service"}
    await until(control.has_route, "the route is there")
    assert [event.reason for event in control.world.events].count("Refused") == 1


async def test_apply_when_guard_is_refused_then_no_pods_until_it_heals(
    control: Control,
) -> None:
    control.world.refused = {"NetworkPolicy"}
    control.world.add()
    await until(control.has_route, "it was looked at")
    assert "Deployment" not in {key.kind for key in control.world.children}
    control.world.refused.clear()

    async def heals() -> bool:
        return "Deployment" in {key.kind for key in control.world.children}

    await until(heals, "it is tried again")


async def test_apply_when_guard_is_refused_then_no_old_deployment_goes(control: Control) -> None:
    control.world.add()
    await until(control.has_route, "it was looked at")
    (old,) = [key for key in control.world.children if key.kind == "Deployment"]
    control.world.finish_fetch()
    control.world.refused = {"NetworkPolicy"}
    control.world.change()

    async def told() -> bool:
        resource = control.world.resources[KEY]
        return bool(resource["status"]["observedGeneration"] == resource["metadata"]["generation"])

    await until(told, "it was looked at again")
    await control.loop.settled()
    assert control.world.condition("WorkloadsReady")["reason"] == "Refused"
    assert old in control.world.children


async def test_messages_when_invalid_then_the_loop_continues(control: Control) -> None:
    for subject in (
        subjects.demand(*_names()),
        subjects.replica(*_names(), "p"),
        subjects.admission(*_names(), "p"),
        subjects.progress(*_names()),
    ):
        await control.client.publish(subject, b"\xff{")
    control.world.add()
    await until(control.has_route, "the loop still works")


async def test_demand_when_live_gateway_reports_then_deployment_scales(control: Control) -> None:
    control.world.add()
    await control.say_presence()
    await control.loop.settled()
    control.world.finish_fetch()
    demand = Demand(gateway="gateway-1", queued=1, in_flight=0)

    async def scaled() -> bool:
        await publish_if_connected(control.client, subjects.demand(*_names()), demand)
        return control.world.replicas() == 1

    await until(scaled, "the Deployment has a replica")


async def test_gateway_when_its_presence_expires_then_models_reconcile(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.control.signals._GATEWAY_TTL", 0.5)
    monkeypatch.setattr(loop_module, "GATEWAY_CHECK_SECONDS", 0.1)
    control.world.add()
    await control.loop.settled()
    await control.say_presence()
    looked = control.world.applied

    async def looked_twice() -> bool:
        return control.world.applied >= looked + 6

    await until(looked_twice, "one look when it came, one when it was gone")


async def test_broker_when_unavailable_then_idle_model_is_not_wakeable(control: Control) -> None:
    control.world.add()
    await control.loop.settled()
    control.world.finish_fetch()

    async def idle() -> bool:
        await control.say_presence()
        return control.world.condition("Ready").get("reason") == "Idle"

    async def stale() -> bool:
        return control.world.condition("Ready").get("reason") == "SignalsStale"

    await until(idle, "the model rests")
    control.broker.kill()
    await until(stale, "the model says that nobody could wake it")
    control.broker.start()
    await until(idle, "the model rests again")


async def test_reports_when_they_arrive_out_of_order_then_newest_stays(control: Control) -> None:
    heard = asyncio.Event()
    hub = SignalStore(control.client, lambda _: heard.set())
    await hub.start()
    for sequence, state in ((2, ReplicaState.READY), (1, ReplicaState.LOADING), (3, ReplicaState.DRAINING)):
        report = Announcement(
            secret="s" * 43,
            pod="p",
            revision="r",
            host="127.0.0.1",
            port=8000,
            started=1.0,
            sequence=sequence,
            state=state,
        )
        if state is ReplicaState.DRAINING:
            await asyncio.wait_for(heard.wait(), 5)
            assert hub.signals(KEY).replicas["p"].state is ReplicaState.READY
            heard.clear()
        await publish_if_connected(control.client, subjects.replica(*_names(), "p"), report)
    await asyncio.wait_for(heard.wait(), 5)
    assert hub.signals(KEY).replicas["p"].state is ReplicaState.DRAINING


async def test_bucket_writer_when_cancelled_at_any_instant_then_ends(control: Control) -> None:
    await control.loop.settled()
    for steps in range(0, 200, 4):
        writer = BucketWriter(control.client, subjects.ROUTES_BUCKET)
        writing = asyncio.create_task(writer.run())
        for _ in range(steps):
            await asyncio.sleep(0)
        writing.cancel()
        done, _ = await asyncio.wait([writing], timeout=5)
        assert done, f"cancelled after {steps} steps, it runs on"
        assert writing.cancelled()


async def test_progress_when_its_job_is_gone_then_it_is_forgotten(control: Control) -> None:
    """Else the last message of one fetch would be taken for the progress of the next one."""
    control.world.add()
    await until(control.has_route, "the route is written")
    signals = control.loop._signals
    await publish_if_connected(
        control.client, subjects.progress(*_names()), FetchProgress(uri="u", received_bytes=90, total_bytes=100)
    )

    async def heard() -> bool:
        return signals.signals(KEY).fetch is not None

    async def forgotten() -> bool:
        return not await heard()

    await until(heard, "the progress is known")
    for key in [key for key in control.world.children if key.kind == "Job"]:
        del control.world.children[key]
    control.world.tell(KEY)
    await until(forgotten, "the progress is forgotten")


async def test_keys_when_they_change_then_the_bucket_has_exactly_these(control: Control) -> None:
    entry = f"default.{'a' * 64}"
    control.world.grants = {entry: KeyGrant(namespace="default", name="app")}
    control.world.tell(None)
    await control.loop.settled()
    bucket = await control.client.jetstream().key_value(subjects.KEYS_BUCKET)
    assert await bucket.keys() == [entry]


def _names() -> tuple[str, str]:
    return KEY.namespace, KEY.name
