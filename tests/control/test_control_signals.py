"""The signal store: newest messages, their expiry, and an unavailable broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from control.control_world import KEY, Broker, until
from nats.aio.client import Client
from nats.js.kv import KV_DEL, KV_OP

from headrace.control.signals import REPLICA_TTL_SECONDS, SignalStore
from headrace.events import subjects
from headrace.events.connection import connect, publish_if_connected
from headrace.events.messages import Admission, Announcement, Demand, FetchProgress, Load, ReplicaReport, ReplicaState
from headrace.reconcile.world import ResourceKey

NAMES = KEY.namespace, KEY.name
LONG = 10 * REPLICA_TTL_SECONDS


@dataclass
class Hearing:
    """A hub on a real broker, with a clock of its own. No loop tells it of reconnections."""

    broker: Broker
    client: Client
    now: float = 1000.0
    changed: list[ResourceKey] = field(default_factory=list)
    hub: SignalStore = field(init=False)

    def __post_init__(self) -> None:
        self.hub = SignalStore(self.client, self.changed.append, clock=lambda: self.now)

    async def demand(self, gateway: str) -> None:
        await publish_if_connected(self.client, subjects.demand(*NAMES), Demand(gateway=gateway, queued=1, in_flight=0))

        async def heard() -> bool:
            return gateway in self.hub.signals(KEY).demand

        await until(heard, f"the demand of {gateway} is heard")

    async def report(self, started: float, sequence: int = 1) -> None:
        report = Announcement(
            secret="s" * 43,
            pod="p",
            revision="r",
            host="127.0.0.1",
            port=8000,
            started=started,
            sequence=sequence,
            state=ReplicaState.READY,
            load=Load(queued=1).with_extra({"hit_ratio": 0.25}),
        )
        await publish_if_connected(self.client, subjects.replica(*NAMES, "p"), report)

        async def heard() -> bool:
            known = self.hub.signals(KEY).replicas.get("p")
            return known is not None and known.started >= started

        await until(heard, "the report is heard")

    async def admit(self, started: float) -> None:
        admission = Admission(gateway="g", pod="p", started=started, state=ReplicaState.READY)
        before = len(self.changed)
        await publish_if_connected(self.client, subjects.admission(*NAMES, "p"), admission)

        async def heard() -> bool:
            return len(self.changed) > before

        await until(heard, "the admission is heard")

    async def presence(self, gateway: str, *, gone: bool = False) -> None:
        headers = {KV_OP: KV_DEL} if gone else None
        await self.client.publish(f"$KV.{subjects.GATEWAYS_BUCKET}.{gateway}", b"1", headers=headers)

        async def heard() -> bool:
            return (gateway in self.hub.live_gateways()) is not gone

        await until(heard, f"the presence of {gateway} is heard")


@pytest.fixture
async def hearing() -> AsyncIterator[Hearing]:
    broker = Broker()
    broker.start()
    client = await connect(broker.url, name="reconciler")
    hearing = Hearing(broker, client)
    await hearing.hub.start()
    yield hearing
    await client.close()
    broker.stop()


async def test_signals_when_their_senders_are_silent_then_they_age(hearing: Hearing) -> None:
    await hearing.demand("g")
    await hearing.report(1.0)
    await hearing.presence("g")
    hearing.now += LONG
    signals = hearing.hub.signals(KEY)
    assert (signals.demand, signals.replicas, signals.gateways) == ({}, {}, frozenset())


async def test_signals_when_broker_was_unavailable_then_nothing_aged(hearing: Hearing) -> None:
    await hearing.demand("g")
    await hearing.report(1.0)
    await hearing.presence("g")
    hearing.broker.kill()
    await until(lambda: _is(not hearing.client.is_connected), "the broker is missed")
    hearing.now += LONG
    away = hearing.hub.signals(KEY)
    assert not away.connected
    assert (set(away.demand), set(away.replicas), set(away.gateways)) == ({"g"}, {"p"}, {"g"})
    hearing.broker.start()
    await until(lambda: _is(hearing.client.is_connected), "the broker is back")
    back = hearing.hub.signals(KEY)
    assert (set(back.demand), set(back.replicas), set(back.gateways)) == ({"g"}, {"p"}, {"g"})
    hearing.now += LONG
    assert hearing.hub.signals(KEY).replicas == {}


async def test_load_when_an_engine_reports_its_own_fields_then_seen(hearing: Hearing) -> None:
    await hearing.report(1.0)
    load = hearing.hub.signals(KEY).replicas["p"].load
    assert (load.queued, load.extra) == (1, {"hit_ratio": 0.25})


async def test_admission_when_of_older_process_then_it_does_not_count(hearing: Hearing) -> None:
    await hearing.presence("g")
    await hearing.report(1.0)
    await hearing.admit(1.0)
    assert hearing.hub.signals(KEY).admissions == {"p": frozenset({"g"})}
    await hearing.report(2.0)
    assert hearing.hub.signals(KEY).admissions == {"p": frozenset()}
    await hearing.admit(2.0)
    assert hearing.hub.signals(KEY).admissions == {"p": frozenset({"g"})}


async def test_gateway_when_it_withdraws_its_presence_then_gone(hearing: Hearing) -> None:
    await hearing.presence("g")
    await hearing.presence("g", gone=True)
    assert hearing.hub.live_gateways() == frozenset()


async def test_gateways_when_many_come_and_go_then_only_live_are_kept(hearing: Hearing) -> None:
    for number in range(5):
        await hearing.presence(f"g{number}")
        await hearing.demand(f"g{number}")
        hearing.now += LONG
    assert len(hearing.hub._gateways) == 1
    assert len(hearing.hub._received[KEY].demand) == 1


async def test_admission_when_its_gateway_silent_then_does_not_count(hearing: Hearing) -> None:
    await hearing.presence("g")
    await hearing.report(1.0)
    await hearing.admit(1.0)
    assert hearing.hub.signals(KEY).admissions == {"p": frozenset({"g"})}
    hearing.now += subjects.GATEWAY_TTL_SECONDS + 0.1
    await hearing.report(1.0, sequence=2)
    signals = hearing.hub.signals(KEY)
    assert (signals.gateways, signals.admissions) == (frozenset(), {"p": frozenset()})
    await hearing.presence("g")
    assert hearing.hub.signals(KEY).admissions == {"p": frozenset({"g"})}


async def test_gateways_when_nats_freezes_then_nats_is_missed_first() -> None:
    """None of the gateways counts as gone before."""
    broker = Broker()
    broker.start()
    client = await connect(broker.url, name="reconciler")
    hub = SignalStore(client, lambda _: None)
    await hub.start()
    try:
        presence = f"$KV.{subjects.GATEWAYS_BUCKET}.g"
        await client.publish(presence, b"1")

        async def live() -> bool:
            return hub.live_gateways() == {"g"}

        await until(live, "the gateway is live")
        broker.freeze()

        async def missed() -> bool:
            assert await live(), "the gateway was taken for gone"
            return not hub.signals(KEY).connected

        await until(missed, "NATS is missed")
        broker.thaw()

        async def back() -> bool:
            return hub.signals(KEY).connected

        await until(back, "NATS is back")
        assert await live()
    finally:
        await client.close()
        broker.stop()


async def test_pods_when_they_are_gone_then_what_they_said_is_too(hearing: Hearing) -> None:
    await hearing.report(1.0)
    await hearing.admit(1.0)
    hearing.hub.forget_pods(KEY, frozenset())
    assert hearing.hub.signals(KEY).replicas == {}
    assert hearing.hub._received[KEY].admissions == {}


async def test_fetch_when_its_job_is_gone_then_its_progress_is_too(hearing: Hearing) -> None:
    progress = FetchProgress(uri="https://example.org/m", received_bytes=90, total_bytes=100)
    await hearing.client.publish(subjects.progress(*NAMES), progress.encode())

    async def heard() -> bool:
        return hearing.hub.signals(KEY).fetch == progress

    await until(heard, "the progress")
    hearing.hub.forget_fetch(KEY)
    assert hearing.hub.signals(KEY).fetch is None


async def _is(value: bool) -> bool:  # noqa: FBT001 - what `until` looks at
    return value


async def test_report_when_wrong_then_fault_is_known_until_replaced(
    hearing: Hearing,
) -> None:
    """Or until the pod is gone."""

    async def ignored(what: dict[str, str]) -> None:
        async def so() -> bool:
            return dict(hearing.hub.signals(KEY).ignored) == what

        await until(so, f"ignored: {what}")

    wrong = {"p": "not a valid Announcement: host, port, revision, secret, sequence, started, state"}
    await hearing.client.publish(subjects.replica(*NAMES, "p"), b'{"pod": "p"}')
    await ignored(wrong)
    assert hearing.changed[-1:] == [KEY]
    await hearing.report(started=1.0)
    await ignored({})
    await hearing.client.publish(subjects.replica(*NAMES, "p"), b'{"pod": "p"}')
    await ignored(wrong)
    hearing.hub.forget_pods(KEY, frozenset())
    await ignored({})


async def test_report_when_the_loop_reports_for_pod_then_nobody_else(hearing: Hearing) -> None:
    await hearing.report(5.0)
    reported = ReplicaReport(
        pod="p", revision="r", host="10.0.0.1", port=80, started=1.0, sequence=1, state=ReplicaState.LOADING
    )
    await hearing.client.publish(subjects.container_report(*NAMES, "p"), reported.encode())

    async def heard() -> bool:
        return hearing.hub.signals(KEY).replicas["p"] == reported

    await until(heard, "the loop's own report")
    liar = Announcement(secret="s" * 43, **{**dict(reported), "started": 9.0, "state": ReplicaState.READY})
    await hearing.client.publish(subjects.replica(*NAMES, "p"), liar.encode())
    await hearing.client.publish(
        subjects.container_report(*NAMES, "q"), reported.model_copy(update={"pod": "q"}).encode()
    )

    async def later() -> bool:
        return "q" in hearing.hub.signals(KEY).replicas

    await until(later, "what was said after the lie")
    assert hearing.hub.signals(KEY).replicas["p"] == reported
