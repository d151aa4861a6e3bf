"""Where a request goes: by weight, by load, only to who said Ready, and not to who drains."""

from __future__ import annotations

import asyncio
from collections import Counter

from gateway.gateway_client import chat, send, sent
from gateway.gateway_inside import request_info
from gateway.gateway_replica import Received
from gateway.gateway_world import World
from hypothesis import given
from hypothesis import strategies as st

from headrace.events import subjects
from headrace.events.messages import ReplicaReport, ReplicaState
from headrace.routes import RevisionWeight
from headrace_gateway.replica import Replica
from headrace_gateway.routing import LAST_RESORT, ONLY, RevisionTurns, choose

REQUEST = request_info()


def replica(pod: str, *, revision: str = "r1", in_flight: int = 0, capacity: int = 4) -> Replica:
    report = ReplicaReport(
        pod=pod, revision=revision, host="127.0.0.1", port=1, started=1, sequence=1, state="Ready", capacity=capacity
    )
    made = Replica(report, 0)
    made.admitted, made.in_flight = True, in_flight
    return made


def weights(**percent: int) -> tuple[RevisionWeight, ...]:
    return tuple(RevisionWeight(revision=name, weight_percent=value) for name, value in percent.items())


def test_choose_when_loads_differ_then_least_loaded() -> None:
    """By the share of each replica's capacity."""
    small, large = replica("small", in_flight=1, capacity=2), replica("large", in_flight=2, capacity=8)
    choice = choose(REQUEST, [small, large], (), RevisionTurns())
    assert choice is not None
    assert choice.replica is large


def test_choose_when_all_are_full_or_paused_then_none() -> None:
    """Or not admitted."""
    full, paused, new = replica("full", in_flight=4), replica("paused"), replica("new")
    paused.paused, new.admitted = True, False
    assert choose(REQUEST, [full, paused, new], (), RevisionTurns()) is None


def test_choose_when_one_is_suspect_then_only_as_last_resort() -> None:
    silent, busy = replica("silent"), replica("busy", in_flight=3)
    silent.suspect = True
    choice = choose(REQUEST, [silent, busy], (), RevisionTurns())
    assert choice is not None
    assert choice.replica is busy
    choice = choose(REQUEST, [silent], (), RevisionTurns())
    assert choice is not None
    assert (choice.replica, choice.reason) == (silent, LAST_RESORT)


def test_choose_when_revision_has_no_weight_then_not_chosen() -> None:
    assert choose(REQUEST, [replica("old", revision="r0")], weights(r0=0, r1=100), RevisionTurns()) is None


def test_choose_when_weighted_revision_is_full_then_other() -> None:
    canary, stable = replica("canary", revision="r2", in_flight=4), replica("stable")
    for _ in range(5):
        choice = choose(REQUEST, [canary, stable], weights(r1=1, r2=99), RevisionTurns())
        assert choice is not None
        assert (choice.replica, choice.reason) == (stable, ONLY)


@given(percent=st.integers(min_value=0, max_value=100), start=st.integers(min_value=0, max_value=250))
def test_turns_when_hundred_requests_then_exact_percentages(percent: int, start: int) -> None:
    """In every window of a hundred requests, a revision gets its weight to within one."""
    turns, given_weights = RevisionTurns(), weights(r1=percent, r2=100 - percent)
    taken = [turns.next(given_weights) for _ in range(start + 100)][start:]
    assert abs(Counter(taken)["r1"] - percent) <= 1


@given(data=st.data())
def test_choose_when_weights_then_usable_revisions_share(data: st.DataObject) -> None:
    """Of all requests each revision with weight and an admitted replica gets its share of their weights, to within one
    per revision; one without weight gets nothing, and one that cannot be used leaves its share to the others."""
    given_weights = weights(**{name: data.draw(st.integers(0, 100), name) for name in ("r1", "r2", "r3")})
    replicas = [replica(name, revision=name) for name in ("r1", "r2", "r3")]
    for each in replicas:
        each.admitted = data.draw(st.booleans(), each.pod)
    usable = {each.revision: each.weight_percent for each in given_weights}
    usable = {each.pod: usable[each.pod] for each in replicas if each.admitted and usable[each.pod]}
    turns, count = RevisionTurns(), 200
    choices = [choose(REQUEST, replicas, given_weights, turns) for _ in range(count)]
    taken = Counter(choice.replica.pod if choice is not None else None for choice in choices)
    if not usable:
        assert taken == {None: count}
    for name, weight in usable.items():
        assert abs(taken[name] - count * weight / sum(usable.values())) <= len(usable)
    assert sum(taken[name] for name in usable) == (count if usable else 0)


async def test_requests_when_canary_has_no_replica_then_others_serve(world: World) -> None:
    await world.loop.route(weights={"r1": 50, "r2": 50, "r0": 0})
    stable, former = await world.replica("stable"), await world.replica("former", revision="r0")
    await world.gateway_knows_route()
    for _ in range(6):
        assert (await send(world.port, chat())).status == 200
    assert (len(stable.requests), len(former.requests)) == (6, 0)


async def test_requests_when_weights_80_20_then_one_in_five_to_canary(world: World) -> None:
    await world.loop.route(weights={"r1": 80, "r2": 20})
    stable, canary = await world.replica("stable"), await world.replica("canary", revision="r2")
    await world.gateway_knows_route()
    for _ in range(20):
        assert (await send(world.port, chat())).status == 200
    assert (len(stable.requests), len(canary.requests)) == (16, 4)


async def test_requests_when_replicas_are_equal_then_they_take_turns(world: World) -> None:
    await world.loop.route()
    replicas = [await world.replica(f"echo-{index}") for index in range(3)]
    decisions = [(await send(world.port, chat())).headers["x-headrace-decision"] for _ in range(6)]
    assert [len(replica.requests) for replica in replicas] == [2, 2, 2]
    assert all(decision.endswith("/least-loaded") for decision in decisions)


async def test_replica_when_ready_and_probe_fails_then_not_admitted(
    world: World,
) -> None:
    """Until it answers a probe."""
    await world.loop.route()
    replica = await world.replica(announce=False, ready=False)
    await replica.be_ready()
    asking = asyncio.create_task(send(world.port, chat()))
    await world.loop.hears_demand(1)
    assert not world.loop.admissions
    replica.ready = True
    await replica.be_ready()
    assert (await asking).status == 200


async def test_replica_when_it_drains_then_acknowledged(world: World) -> None:
    """New requests go to other replicas."""
    await world.loop.route()
    finish = asyncio.Event()

    async def slow(request: Received) -> None:
        await finish.wait()
        request.answer(request.body)

    old = await world.replica("old", behaviour=slow)
    running = asyncio.create_task(send(world.port, chat()))
    await world.loop.hears_admission("old", ReplicaState.READY)
    new = await world.replica("new")
    while not old.requests:
        await asyncio.sleep(0.005)
    await old.report(ReplicaState.DRAINING)
    await world.loop.hears_admission("old", ReplicaState.DRAINING)
    for _ in range(4):
        assert (await send(world.port, chat())).status == 200
    finish.set()
    assert (await running).status == 200
    assert (len(old.requests), len(new.requests)) == (1, 4)


async def test_replica_when_report_is_overtaken_then_newer_counts(world: World) -> None:
    await world.loop.route()
    replica = await world.replica()
    await replica.report(ReplicaState.DRAINING)
    await world.loop.hears_admission("echo-1", ReplicaState.DRAINING)
    replica._sequence = 0
    await replica.be_ready()
    async with sent(world.port, chat(stream=True)) as incoming:
        assert await anext(incoming.events()) == ": headrace stage=waiting"


async def test_replica_when_reported_by_another_sender_then_ignored(world: World) -> None:
    await world.loop.route()
    liar = await world.replica("liar\r\nreplica=forged", announce=False)
    report = ReplicaReport(
        pod=liar.pod,
        revision="r1",
        host="127.0.0.1",
        port=liar.port,
        started=liar.started,
        sequence=1,
        state=ReplicaState.READY,
    )
    await world.loop.client.publish(subjects.replica("default", "echo", "liar"), report.encode())
    await world.replica("honest")  # was heard after it
    for _ in range(3):
        assert (await send(world.port, chat())).headers["x-headrace-decision"] == "honest/only-replica"
    assert "forged" not in world.gateway.log


async def test_replica_when_loop_solicits_then_acknowledged_again(world: World) -> None:
    await world.loop.route()
    await world.replica()
    since = len(world.loop.admissions)
    await world.loop.client.publish(subjects.SOLICIT)
    await world.loop.hears_admission("echo-1", ReplicaState.READY, since)


async def test_address_when_another_pod_has_it_then_old_is_removed(world: World) -> None:
    """A pod's address is given to another tenant's pod: what was known of the first must not lead to the second."""
    await world.loop.route("first")
    await world.loop.route("second")
    first = await world.replica("first-1", name="first")
    await first.stop()
    second = await world.replica("second-1", name="second", port=first.port)
    async with sent(world.port, chat("first", stream=True)) as incoming:
        assert (await anext(incoming.events())).startswith(": headrace stage=")
    assert not second.requests
