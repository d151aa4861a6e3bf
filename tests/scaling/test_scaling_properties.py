"""What holds of the autoscaler whatever is measured."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from headrace.scaling.autoscaler import Reason, Sample, ScalePolicy, ScaleState, decide, start

policies = st.builds(
    lambda low, more, metric, target, idle: ScalePolicy(
        min_replicas=low,
        max_replicas=max(low + more, 1),
        metric=metric,
        target=float(target),
        idle_timeout_seconds=float(idle),
        replica_capacity=16,
    ),
    low=st.integers(0, 4),
    more=st.integers(0, 50),
    metric=st.sampled_from(["Concurrency", "QueueDelay"]),
    target=st.integers(1, 500),
    idle=st.integers(1, 600),
)
samples = st.builds(
    Sample,
    queued=st.integers(0, 200),
    in_flight=st.integers(0, 200),
    queue_delay_milliseconds=st.floats(0, 10_000),
    ready_replicas=st.integers(0, 60),
    activating_replicas=st.sampled_from([0, 0, 0, 1, 5]),
    fresh=st.sampled_from([True, True, True, False]),
)
quiet = st.builds(lambda ready: Sample(0, 0, 0.0, ready), st.integers(0, 60))
steps = st.lists(st.tuples(st.floats(0.01, 90), samples | quiet), max_size=30)


def _lived(policy: ScalePolicy, replicas: int, life: list[tuple[float, Sample]]) -> tuple[ScaleState, float]:
    now = 1000.0
    state = start(replicas, now)
    for seconds, sample in life:
        now += seconds
        state = decide(policy, state, sample, now).state
    return state, now


@given(policies, st.integers(0, 60), steps, samples)
def test_decision_when_anything_is_measured_then_within_bounds(
    policy: ScalePolicy, replicas: int, life: list[tuple[float, Sample]], sample: Sample
) -> None:
    state, now = _lived(policy, replicas, life)
    assert policy.min_replicas <= decide(policy, state, sample, now + 1).replicas <= policy.max_replicas


@given(policies, st.integers(0, 60), steps, samples, st.integers(0, 200), st.integers(0, 200), st.floats(0, 9000))
def test_decision_when_demand_higher_then_never_fewer_replicas(
    policy: ScalePolicy,
    replicas: int,
    life: list[tuple[float, Sample]],
    sample: Sample,
    queued: int,
    in_flight: int,
    delay: float,
) -> None:
    state, now = _lived(policy, replicas, life)
    higher = replace(
        sample,
        queued=sample.queued + queued,
        in_flight=sample.in_flight + in_flight,
        queue_delay_milliseconds=sample.queue_delay_milliseconds + delay,
    )
    fewer, more = (decide(policy, state, each, now + 1).replicas for each in (sample, higher))
    assert fewer <= more


@given(policies, st.integers(0, 60), steps, samples)
def test_decision_when_in_panic_then_shrinks_to_zero_or_bounds(
    policy: ScalePolicy, replicas: int, life: list[tuple[float, Sample]], sample: Sample
) -> None:
    state, now = _lived(policy, replicas, life)
    decision = decide(policy, state, sample, now + 1)
    if decision.state.panic_since is not None:
        assert decision.replicas >= min(state.replicas, policy.max_replicas)


@given(policies, st.integers(1, 60), steps, samples)
def test_decision_when_zero_then_idle_for_the_whole_timeout(
    policy: ScalePolicy, replicas: int, life: list[tuple[float, Sample]], sample: Sample
) -> None:
    now = last_demand = 1000.0
    state = start(replicas, now)
    for seconds, measured in [*life, (1.0, sample)]:
        now += seconds
        before = state.replicas
        if measured.requests or not measured.fresh:
            last_demand = now
        decision = decide(policy, state, measured, now)
        state = decision.state
        if before > 0 and decision.replicas == 0:
            assert decision.reason is Reason.IDLE
            assert now - last_demand >= policy.idle_timeout_seconds


@given(policies, st.integers(0, 60), steps, samples, st.integers(1, 5), st.floats(0.01, 9000))
def test_decision_when_replica_activating_then_nothing_shrinks(
    policy: ScalePolicy,
    replicas: int,
    life: list[tuple[float, Sample]],
    sample: Sample,
    activating: int,
    later: float,
) -> None:
    """However long ago the last request was; new bounds of the spec alone are obeyed."""
    state, now = _lived(policy, replicas, life)
    decision = decide(policy, state, replace(sample, activating_replicas=activating), now + later)
    assert decision.replicas >= min(state.replicas, policy.max_replicas)


@given(policies, st.integers(0, 60), steps, st.integers(0, 60))
def test_decision_when_signals_are_stale_then_nothing_shrinks(
    policy: ScalePolicy, replicas: int, life: list[tuple[float, Sample]], ready: int
) -> None:
    state, now = _lived(policy, replicas, life)
    decision = decide(policy, state, Sample(0, 0, 0.0, ready, fresh=False), now + 1000)
    assert decision.replicas >= min(state.replicas, policy.max_replicas)


@given(policies, st.integers(0, 60), steps)
def test_memory_when_the_rule_runs_long_then_bounded_by_window(
    policy: ScalePolicy, replicas: int, life: list[tuple[float, Sample]]
) -> None:
    state, _ = _lived(policy, replicas, life)
    assert len(state.window.buckets) <= 60


@given(policies, steps)
def test_decision_when_a_request_is_held_at_zero_then_it_wakes(
    policy: ScalePolicy, life: list[tuple[float, Sample]]
) -> None:
    state, now = _lived(policy, 0, life)
    assert decide(policy, replace(state, replicas=0), Sample(1, 0, 0.0, 0), now + 1).replicas >= 1
