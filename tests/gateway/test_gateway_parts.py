"""What is bounded and counted inside the gateway, where the outside would take thousands of models to see it."""

from __future__ import annotations

import asyncio

import pytest
from gateway.gateway_inside import NETWORKS, request_info

from headrace.events.messages import Announcement, ReplicaReport, ReplicaState
from headrace.routes import Route
from headrace_gateway.admission import Admissions
from headrace_gateway.buckets import MISSING_SECONDS, BucketMirror
from headrace_gateway.metrics import MAX_LABELLED_MODELS, GatewayMetrics
from headrace_gateway.model import Lease, ServedModel
from headrace_gateway.outbox import Outbox
from headrace_gateway.replica import Replica
from headrace_gateway.retries import RESERVE, RetryBudget
from headrace_gateway.table import Table


def served(name: str = "m", tell: list[str] | None = None) -> ServedModel:
    model = ServedModel("default", name, lambda model: (tell if tell is not None else []).append(model.name))
    model.set_route(Route(namespace="default", name=name, public_name=name))
    return model


def admit(model: ServedModel, capacity: int) -> Replica:
    report = ReplicaReport(
        pod="p", revision="r", host="127.0.0.1", port=1, started=1, sequence=1, state=ReplicaState.READY
    )
    replica = Replica(report.model_copy(update={"capacity": capacity}), 0)
    replica.admitted = True
    model.replicas["p"] = replica
    return replica


async def test_metrics_when_there_are_more_models_than_labels_then_the_rest_is_summed_as_other() -> None:
    models = [served(f"m{index}") for index in range(MAX_LABELLED_MODELS + 5)]
    for model in models:
        model.metrics.codes[200] += 1
    exposition = GatewayMetrics(lambda: models).exposition().decode()
    assert 'headrace_gateway_requests_total{code="200",model="other",namespace="other"} 5.0' in exposition
    assert exposition.count("headrace_gateway_requests_total{") == MAX_LABELLED_MODELS + 1


async def test_demand_when_a_short_request_came_and_went_between_two_looks_then_it_counts_as_one() -> None:
    model = served()
    admit(model, 1)
    lease = model.take(request_info())
    assert lease is not None
    await asyncio.sleep(0)
    model.release(lease)
    assert model.demand("g").in_flight == 1
    assert model.demand("g").in_flight == 0


async def test_demand_when_many_queues_begin_in_a_moment_then_it_is_told_at_once_and_once_more() -> None:
    told: list[str] = []
    model = served(tell=told)
    for _ in range(100):
        ticket = model.hold(request_info(), 0, front=False)
        model.withdraw(ticket)
    assert told == ["m"]
    async with asyncio.timeout(5):
        while len(told) < 2:
            await asyncio.sleep(0.005)
    assert told == ["m", "m"]


async def test_place_when_given_to_a_ticket_whose_holder_has_gone_then_it_goes_to_the_next() -> None:
    model = served()
    since = asyncio.get_running_loop().time()
    first, second = (model.hold(request_info(), since, front=False) for _ in range(2))
    admit(model, 1)
    model.pump()
    assert isinstance(first.outcome, Lease)
    model.withdraw(first)
    assert isinstance(second.outcome, Lease)
    assert model.in_flight == 1


async def test_ticket_when_its_request_lost_its_place_then_it_stands_before_all_others() -> None:
    model = served()
    since = asyncio.get_running_loop().time()
    waiting = model.hold(request_info(), since, front=False)
    again = model.hold(request_info(), since, front=True)
    admit(model, 1)
    model.pump()
    assert isinstance(again.outcome, Lease)
    assert waiting.outcome is None


def test_retries_when_the_reserve_is_spent_then_one_in_five_requests_earns_another() -> None:
    budget = RetryBudget()
    assert [budget.spend() for _ in range(int(RESERVE) + 1)] == [True] * int(RESERVE) + [False]
    for _ in range(6):
        budget.earn()
    assert [budget.spend(), budget.spend()] == [True, False]


@pytest.mark.parametrize(
    ("stage", "percent", "shown"), [("loading-weights", 41, "loading-weights 41%"), ("warming-up", None, "warming-up")]
)
async def test_stage_when_a_replica_loads_then_it_is_what_the_replica_says(
    stage: str, percent: int | None, shown: str
) -> None:
    model = served()
    replica = admit(model, 1)
    replica.report = replica.report.model_copy(
        update={"state": ReplicaState.LOADING, "stage": stage, "percent": percent}
    )
    assert model.stage() == shown


def test_bucket_when_an_entry_vanishes_without_a_mark_then_it_is_dropped_only_after_a_while() -> None:
    now = 0.0
    applied: list[tuple[str, bytes | None]] = []
    mirror = BucketMirror("b", lambda key, value: applied.append((key, value)), list, clock=lambda: now)
    mirror._drop_missing({"a", "b"})
    now = MISSING_SECONDS - 1
    mirror._drop_missing({"a"})  # b was written again
    assert not applied
    now = MISSING_SECONDS
    mirror._drop_missing({"a", "b"})
    assert applied == [("a", None)]


async def test_replicas_when_a_namespace_invents_more_than_the_bound_then_only_its_own_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("headrace_gateway.claims.MAX_REPLICAS", 2)
    outbox = Outbox("g")
    table = Table("default", outbox.demand)
    async with asyncio.TaskGroup() as tasks:
        admissions = Admissions(table, outbox, tasks, NETWORKS)
        for number in range(3):
            admissions.on_report("greedy", f"m{number}", loading("p"))
        admissions.on_report("greedy", "m0", loading("p", sequence=2))
        admissions.on_report("modest", "m", loading("p", port=2))
    assert sorted(table.models) == [("greedy", "m0"), ("greedy", "m1"), ("modest", "m")]
    assert table.models["greedy", "m0"].replicas["p"].report.sequence == 2


async def test_replica_when_restarted_before_its_route_is_known_then_it_is_known_still() -> None:
    outbox = Outbox("g")
    table = Table("default", outbox.demand)
    async with asyncio.TaskGroup() as tasks:
        admissions = Admissions(table, outbox, tasks, NETWORKS)
        admissions.on_report("default", "m", loading("p"))
        admissions.on_report("default", "m", loading("p", started=2))
    assert table.models["default", "m"].replicas["p"].report.started == 2


def loading(pod: str, *, sequence: int = 1, started: float = 1, port: int = 1) -> Announcement:
    return Announcement(
        secret="s" * 43,
        pod=pod,
        revision="r",
        host="127.0.0.1",
        port=port,
        started=started,
        sequence=sequence,
        state=ReplicaState.LOADING,
    )
