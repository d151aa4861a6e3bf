"""The autoscaler on a virtual clock: each test is a story of demand, second by second."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest

from headrace.scaling.autoscaler import (
    TARGET_BURST_CAPACITY,
    Decision,
    Reason,
    Sample,
    ScalePolicy,
    ScaleState,
    decide,
    start,
)

POLICY = ScalePolicy(
    min_replicas=0,
    max_replicas=20,
    metric="Concurrency",
    target=8,
    idle_timeout_seconds=300,
    replica_capacity=16,
)
CALM = ScaleState(replicas=0, last_active=0.0)


def asked(
    queued: int = 0,
    in_flight: int = 0,
    ready: int = 0,
    delay: float = 0.0,
    *,
    activating: int = 0,
    activated: float = -math.inf,
    fresh: bool = True,
) -> Sample:
    return Sample(queued, in_flight, delay, ready, activating, activated, fresh)


def played(policy: ScalePolicy, state: ScaleState, samples: Iterable[Sample], at: float = 1000.0) -> list[Decision]:
    """One sample a second; every decision is carried out before the next."""
    decisions = []
    for second, sample in enumerate(samples):
        decision = decide(policy, state, sample, at + second)
        decisions.append(decision)
        state = decision.state
    return decisions


def steady(replicas: int, at: float = 1000.0) -> ScaleState:
    """A rule in calm with so many replicas."""
    return ScaleState(replicas=replicas, last_active=at)


def test_wake_when_one_request_is_held_at_zero_then_one_replica() -> None:
    decision = decide(POLICY, CALM, asked(queued=1), 1000.0)
    assert (decision.replicas, decision.reason) == (1, Reason.WOKEN)


def test_wake_when_many_are_held_at_zero_then_all_needed_at_once() -> None:
    assert decide(POLICY, CALM, asked(queued=33), 1000.0).replicas == 5


def test_rest_when_nobody_asks_at_zero_then_zero_and_no_timer() -> None:
    decision = decide(POLICY, CALM, asked(), 1000.0)
    assert (decision.replicas, decision.seconds_to_idle) == (0, None)


def test_calm_when_demand_is_constant_then_demand_over_target() -> None:
    decisions = played(POLICY, steady(3), [asked(in_flight=24, ready=3)] * 120)
    assert {d.replicas for d in decisions} == {3}
    assert decisions[-1].reason is Reason.STABLE


def test_calm_when_demand_grows_slowly_then_stable_window() -> None:
    samples = [asked(in_flight=24, ready=3)] * 60 + [asked(in_flight=32, ready=3)] * 60
    decisions = played(POLICY, steady(3), samples)
    assert decisions[61].replicas == 4  # ceil of an average just above 3
    assert decisions[-1].replicas == 4
    assert Reason.PANIC not in {d.reason for d in decisions}


def test_panic_when_demand_doubles_then_short_window_decides() -> None:
    samples = [asked(in_flight=8, ready=1)] * 60 + [asked(queued=32, in_flight=8, ready=1)] * 6
    decisions = played(POLICY, steady(1), samples)
    assert decisions[-1].reason is Reason.HOLDING
    assert decisions[-1].replicas == 5
    assert Reason.PANIC in {d.reason for d in decisions[60:]}


def test_panic_when_the_burst_ends_then_no_shrink_for_a_window() -> None:
    burst = [asked(queued=40, ready=1)] * 6
    after = [asked(in_flight=1, ready=5)] * 70
    decisions = played(POLICY, steady(1), [*burst, *after])
    assert {d.replicas for d in decisions[5:59]} == {5}
    assert decisions[-1].replicas < 5
    assert decisions[-1].reason is Reason.STABLE


def test_shrinking_when_demand_collapses_then_halves_at_most() -> None:
    state = steady(16)
    assert decide(POLICY, state, asked(in_flight=1, ready=16), 1000.0).replicas == 8


def test_shrinking_when_demand_pauses_then_last_stays_until_idle() -> None:
    decisions = played(POLICY, steady(1), [asked(ready=1)] * 300)
    assert {d.replicas for d in decisions} == {1}
    assert decisions[-1].seconds_to_idle == 1.0


def test_idle_when_the_timeout_passed_then_zero_from_any_number() -> None:
    impatient = replace(POLICY, idle_timeout_seconds=5)
    samples = [asked(queued=40, ready=4)] * 3 + [asked(ready=4)] * 5
    decisions = played(impatient, steady(4), samples)
    assert decisions[-2].replicas > 1
    assert decisions[-1].replicas == 0
    assert decisions[-1].reason is Reason.IDLE


IMPATIENT = replace(POLICY, idle_timeout_seconds=2)


def test_idle_when_the_only_replica_is_activating_then_kept() -> None:
    """A client that gives up after 3 s, a start that takes 12 s, an idle timeout of 2 s: one replica."""
    decisions = played(IMPATIENT, CALM, [asked(queued=1, activating=1)] * 3 + [asked(activating=1)] * 9)
    assert {d.replicas for d in decisions} == {1}
    assert decisions[-1].seconds_to_idle is None


def test_idle_when_a_replica_became_ready_then_counts_from_then() -> None:
    samples = [asked(queued=1, activating=1)] + [asked(activating=1)] * 11 + [asked(ready=1, activated=1012.0)] * 3
    decisions = played(IMPATIENT, CALM, samples)
    assert [d.replicas for d in decisions[-3:]] == [1, 1, 0]
    assert decisions[-1].reason is Reason.IDLE


def test_idle_when_activating_replica_failed_then_last_request() -> None:
    """The timeout counts from the last request."""
    decisions = played(IMPATIENT, CALM, [asked(queued=1, activating=1)] + [asked(activating=1)] * 11 + [asked()])
    assert [d.replicas for d in decisions[-2:]] == [1, 0]


def test_shrinking_when_replica_is_activating_then_none_removed() -> None:
    decision = decide(POLICY, steady(4), asked(in_flight=1, ready=2, activating=2), 1000.0)
    assert (decision.replicas, decision.reason) == (4, Reason.ACTIVATING)


def test_idle_when_a_minimum_is_set_then_never_below_it() -> None:
    decisions = played(replace(POLICY, min_replicas=2), steady(2), [asked(ready=2)] * 600)
    assert {d.replicas for d in decisions} == {2}
    assert decisions[-1].seconds_to_idle is None


def test_minimum_when_nothing_runs_yet_then_starts_unasked() -> None:
    decision = decide(replace(POLICY, min_replicas=2), CALM, asked(), 1000.0)
    assert (decision.replicas, decision.reason) == (2, Reason.MINIMUM)


def test_maximum_when_demand_is_higher_then_clamped_and_reported() -> None:
    decision = decide(replace(POLICY, max_replicas=3), CALM, asked(queued=100), 1000.0)
    assert (decision.replicas, decision.needed) == (3, 13)


def test_maximum_when_it_is_lowered_then_the_surplus_goes() -> None:
    assert decide(replace(POLICY, max_replicas=2), steady(5), asked(in_flight=40, ready=5), 1000.0).replicas == 2


def test_stale_signals_when_demand_unknown_then_nothing_shrinks() -> None:
    """The idle time does not count either."""
    decisions = played(POLICY, steady(4), [asked(ready=4, fresh=False)] * 1000)
    assert {(d.replicas, d.reason) for d in decisions} == {(4, Reason.STALE)}


def test_stale_signals_when_back_then_no_shrink_for_a_window() -> None:
    samples = [asked(ready=4, fresh=False)] * 10 + [asked(ready=4)] * 61
    decisions = played(POLICY, steady(4), samples)
    assert [d.replicas for d in decisions[10:69]] == [4] * 59
    assert decisions[-1].replicas == 2


def test_restart_when_replicas_run_then_activity_counts_from_now() -> None:
    """Nothing shrinks for a stable window."""
    decisions = played(POLICY, start(4, 1000.0), [asked(ready=4)] * 61)
    assert {d.replicas for d in decisions[:60]} == {4}
    assert decisions[-1].replicas == 2


def test_restart_when_demand_is_high_then_it_grows_at_once() -> None:
    assert decide(POLICY, start(1, 1000.0), asked(queued=24, ready=1), 1000.0).replicas == 3


@pytest.mark.parametrize(("delay", "wanted"), [(100.0, 2), (200.0, 2), (300.0, 3), (400.0, 4)])
def test_queue_delay_when_measured_then_in_proportion_to_ready(delay: float, wanted: int) -> None:
    policy = replace(POLICY, metric="QueueDelay", target=200)
    samples = [asked(in_flight=4, ready=2, delay=delay)]
    state = replace(steady(2), panic_since=1000.0)
    assert played(policy, state, samples)[-1].replicas == wanted


def test_queue_delay_when_no_requests_then_an_old_one_is_ignored() -> None:
    policy = replace(POLICY, metric="QueueDelay", target=200)
    assert decide(policy, steady(1), asked(ready=1, delay=60_000.0), 1000.0).replicas == 1


def test_samples_when_many_in_one_second_then_its_peak_counts() -> None:
    state = steady(1)
    for moment in range(100):
        state = decide(POLICY, state, asked(in_flight=moment % 9, ready=1), 1000.0 + moment / 200).state
    for second in range(1, 4):
        decision = decide(POLICY, state, asked(in_flight=0, queued=0, ready=1), 1000.0 + second)
        state = decision.state
    assert len(state.window.buckets) == 4
    assert state.window.average(1003.0, 60) == 0.25


def test_burst_capacity_when_reported_then_room_less_target() -> None:
    decision = decide(POLICY, steady(2), asked(in_flight=10, ready=2), 1000.0)
    assert decision.burst_capacity == 2 * 16 - 10 - TARGET_BURST_CAPACITY


def test_queue_delay_when_demand_stays_then_replicas_settle() -> None:
    """A closed loop: 100 permanent requests, 16 to a replica; who finds no room waits, a second more each second."""
    policy = replace(POLICY, metric="QueueDelay", target=200, max_replicas=10)
    state, delay, replicas = steady(1), 0.0, []
    for second in range(600):
        in_flight = min(100, policy.replica_capacity * state.replicas)
        delay = delay + 1000.0 if in_flight < 100 else 0.0
        sample = asked(queued=100 - in_flight, in_flight=in_flight, ready=state.replicas, delay=delay)
        state = decide(policy, state, sample, 1000.0 + second).state
        replicas.append(state.replicas)
    assert set(replicas[200:]) == {7}
