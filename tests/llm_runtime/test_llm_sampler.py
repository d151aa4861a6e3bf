"""Drawing tokens: the rule equals a slow one in float64, and no setting of a request breaks the engine."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from headrace.serving.engine import Sampling
from headrace.serving.errors import RequestFailed
from headrace_llm.sampling.logprobs import most_likely, token_logprob, token_logprobs
from headrace_llm.sampling.sampler import Bitmask, Sampler
from headrace_llm.sampling.uniform import random_seed, uniform
from headrace_models.decoder import Floats

PROBABILITIES = [0.5, 0.25, 0.15, 0.1]
LOGITS = np.log(np.array(PROBABILITIES, dtype=np.float32))
DRAWS = 300


def sampler(sampling: Sampling, vocabulary: int = len(LOGITS), **rest: object) -> Sampler:
    return Sampler(sampling, vocabulary=vocabulary, **rest)  # type: ignore[arg-type] # each test passes its own


def drawn(sampling: Sampling, logits: Floats = LOGITS) -> set[int]:
    made = sampler(sampling, len(logits))
    return {made.sample(logits).token for _ in range(DRAWS)}


def bitmask(allowed: set[int], vocabulary: int) -> Bitmask:
    bits = np.zeros((vocabulary + 31) // 32 * 32, dtype=np.uint8)
    bits[sorted(allowed)] = 1
    return np.packbits(bits, bitorder="little").view(np.uint32)


@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        (Sampling(temperature=0), {0}),
        (Sampling(seed=0), {0, 1, 2, 3}),
        (Sampling(seed=0, top_k=2), {0, 1}),
        (Sampling(seed=0, top_k=9), {0, 1, 2, 3}),
        (Sampling(seed=0, top_p=0.49), {0}),
        (Sampling(seed=0, top_p=1e-300), {0}),
        (Sampling(seed=0, top_p=0.7), {0, 1}),
        (Sampling(seed=0, min_p=0.29), {0, 1, 2}),
        (Sampling(seed=0, min_p=1.0), {0}),
        (Sampling(seed=0, top_k=3, top_p=0.95), {0, 1, 2}),
        (Sampling(seed=0, top_k=3, top_p=0.8), {0, 1}),
        (Sampling(seed=0, temperature=1e-320), {0}),
        (Sampling(seed=0, temperature=1e308), {0, 1, 2, 3}),
        (Sampling(seed=0, temperature=1e308, top_k=2), {0, 1}),
        (Sampling(seed=0, logit_bias=((3, 100.0),)), {3}),
        (Sampling(seed=0, logit_bias=((0, -100.0), (1, -100.0))), {2, 3}),
    ],
)
def test_draw_when_a_filter_is_set_then_only_kept_tokens_come(sampling: Sampling, possible: set[int]) -> None:
    assert drawn(sampling) == possible


@pytest.mark.parametrize(
    ("sampling", "kept"), [(Sampling(seed=1, top_k=2), {0, 1}), (Sampling(seed=1, top_p=0.5), {0, 1})]
)
def test_filters_when_logits_are_equal_then_lower_ids_stay(sampling: Sampling, kept: set[int]) -> None:
    assert drawn(sampling, np.zeros(4, dtype=np.float32)) == kept
    assert sampler(Sampling(temperature=0)).sample(np.zeros(4, dtype=np.float32)).token == 0


def reference(logits: Floats, sampling: Sampling, prompt: list[int], answer: list[int], u: float) -> tuple[int, float]:
    """Return the next token by the rule of the module, in float64 and by sorting, and its distance from a border.

    The distance is that of any decision that rounding could change: of u, of top_p and of min_p.
    """
    x = logits.astype(np.float64)
    for token, bias in sampling.logit_bias:
        x[token] += bias
    for token in {*prompt, *answer}:
        x[token] = x[token] / sampling.repetition_penalty if x[token] > 0 else x[token] * sampling.repetition_penalty
    for token, count in Counter(answer).items():
        x[token] -= sampling.frequency_penalty * count + sampling.presence_penalty
    order = sorted(range(len(x)), key=lambda i: (-x[i], i))
    gaps = [abs(x[a] - x[b]) for a, b in pairwise(order)]
    near = min(gaps, default=1.0)
    if sampling.temperature == 0:
        return order[0], near
    weights = np.exp((x - x.max()) / sampling.temperature)
    near = min(near, *abs(weights - sampling.min_p))
    order = [i for i in order if weights[i] >= sampling.min_p][: sampling.top_k or None]
    if sampling.top_p < 1:
        sums = np.cumsum(weights[order]) / weights[order].sum()
        near = min(near, *abs(sums - sampling.top_p))
        order = order[: int(np.argmax(sums >= sampling.top_p)) + 1]
    kept = sorted(order)
    sums = np.cumsum(weights[kept]) / weights[kept].sum()
    near = min(near, *abs(sums[:-1] - u), 1.0)
    return kept[min(int(np.searchsorted(sums, u, side="right")), len(kept) - 1)], near


tokens = st.integers(0, 39)
samplings = st.builds(
    Sampling,
    temperature=st.one_of(st.just(0.0), st.floats(0.1, 3)),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 1)),
    top_k=st.integers(0, 50),
    min_p=st.one_of(st.just(0.0), st.floats(0, 1)),
    seed=st.integers(-(2**63), 2**64 - 1),
    presence_penalty=st.one_of(st.just(0.0), st.floats(-2, 2)),
    frequency_penalty=st.one_of(st.just(0.0), st.floats(-2, 2)),
    repetition_penalty=st.one_of(st.just(1.0), st.floats(0.5, 2)),
    logit_bias=st.lists(st.tuples(tokens, st.floats(-100, 100)), max_size=3).map(tuple),
)


@settings(max_examples=300, deadline=None)
@given(
    sampling=samplings,
    rows=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.1, 1.0, 5.0]),
    prompt=st.lists(tokens, max_size=6),
    answer=st.lists(tokens, max_size=6),
)
def test_sample_when_compared_with_the_slow_rule_then_equal(
    sampling: Sampling, rows: int, scale: float, prompt: list[int], answer: list[int]
) -> None:
    """The float64 rule gives the same token, unless a decision is within rounding of its border."""
    logits = (np.random.default_rng(rows).normal(size=40) * scale).astype(np.float32)
    assert sampling.seed is not None
    expected, near = reference(logits, sampling, prompt, answer, uniform(sampling.seed, len(answer)))
    assume(near > 2e-5)
    before = logits.copy()
    assert sampler(sampling, 40, prompt=prompt, answered=answer).sample(logits).token == expected
    assert (logits == before).all()


@settings(max_examples=20, deadline=None)
@given(sampling=samplings, rows=st.integers(0, 2**32 - 1))
def test_sample_when_the_vocabulary_is_large_then_as_slow_rule(sampling: Sampling, rows: int) -> None:
    """Several blocks of sums, and a selection before the sort."""
    logits = (np.random.default_rng(rows).normal(size=3000) * 3).astype(np.float32)
    assert sampling.seed is not None
    expected, near = reference(logits, sampling, [], [], uniform(sampling.seed, 0))
    assume(near > 1e-9)
    made = sampler(sampling, 3000)
    assert made.sample(logits).token == expected or near < 2e-5


@settings(max_examples=100, deadline=None)
@given(
    temperature=st.floats(0, 1e308),
    top_p=st.floats(0, 1, exclude_min=True),
    min_p=st.floats(0, 1),
    top_k=st.integers(0, 10),
    seed=st.integers(-(2**63), 2**64 - 1),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
)
def test_draw_when_settings_are_extreme_then_a_token_still_comes(
    temperature: float, top_p: float, min_p: float, top_k: int, seed: int, scale: float
) -> None:
    """Whatever a request may ask for, an allowed token is drawn."""
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, min_p=min_p)
    made = sampler(sampling)
    for _ in range(5):
        assert made.sample(LOGITS * np.float32(scale), bitmask({1, 3}, 4)).token in {1, 3}


def test_draws_when_many_then_distributed_as_the_probabilities() -> None:
    """Pearson's chi-square of 20,000 draws over 4 tokens: 16.3 is exceeded with probability 0.001."""
    for seed in range(3):
        made = sampler(Sampling(seed=seed))
        counts = Counter(made.sample(LOGITS).token for _ in range(20_000))
        expected = [20_000 * each for each in PROBABILITIES]
        assert sum((counts[i] - mean) ** 2 / mean for i, mean in enumerate(expected)) < 16.3


def test_uniform_when_seeds_or_indices_differ_then_independent() -> None:
    """Bins of pairs (next index, next seed) are even: chi-square of 99 degrees of freedom, 0.001 at 148.2."""
    for pair in ((lambda i: (uniform(5, i), uniform(5, i + 1))), (lambda i: (uniform(i, 0), uniform(i + 1, 0)))):
        bins = Counter((int(a * 10), int(b * 10)) for a, b in map(pair, range(20_000)))
        assert sum((bins[a, b] - 200) ** 2 / 200 for a in range(10) for b in range(10)) < 148.2


def test_uniform_is_splitmix64() -> None:
    """Golden values, so that a seed's answer stays the same in later versions. mix(0) is 0: the published sequence."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [uniform(0, i) for i in range(3)] == [(value >> 11) / 2**53 for value in published]
    assert uniform(-1, 4) == uniform(2**64 - 1, 4)


def test_draws_when_the_seed_is_the_same_then_so_are_they() -> None:
    first, again, other = sampler(Sampling(seed=7)), sampler(Sampling(seed=7)), sampler(Sampling(seed=8))
    for _ in range(20):
        token = first.sample(LOGITS).token
        other.sample(LOGITS)
        assert again.sample(LOGITS).token == token


@pytest.mark.parametrize("seed", [None, 5])
def test_draws_when_continued_from_seed_and_tokens_then_same(seed: int | None) -> None:
    sampling = Sampling(seed=seed, frequency_penalty=0.5, presence_penalty=0.1, repetition_penalty=1.2)
    whole = sampler(sampling, prompt=[2])
    answer = [whole.sample(LOGITS).token for _ in range(30)]
    for cut in (0, 1, 17):
        rest = sampler(replace(sampling, seed=whole.seed), prompt=[2], answered=answer[:cut])
        assert [rest.sample(LOGITS).token for _ in range(30 - cut)] == answer[cut:]


def test_draws_when_tokens_are_accepted_then_as_if_drawn() -> None:
    """A token that a constraint forces counts for the seed's sequence and for penalties."""
    sampling = Sampling(seed=3, frequency_penalty=0.5, repetition_penalty=1.2)
    drawing, accepting = sampler(sampling), sampler(sampling)
    for step in range(30):
        token = drawing.sample(LOGITS).token
        if step % 3:
            accepting.accept(token)
        else:
            assert accepting.sample(LOGITS).token == token


def test_seeds_when_none_is_given_then_they_differ() -> None:
    assert len({random_seed() for _ in range(10)}) == 10


def test_ends_when_min_tokens_are_not_reached_then_excluded() -> None:
    made = sampler(Sampling(temperature=0), ends=[0], min_tokens=2)
    assert [made.sample(LOGITS).token for _ in range(3)] == [1, 1, 0]


def test_mask_when_only_some_tokens_are_allowed_then_one_of_them() -> None:
    logits = np.arange(70, dtype=np.float32)
    assert sampler(Sampling(temperature=0), 70).sample(logits, bitmask({3, 40, 64}, 70)).token == 64
    assert sampler(Sampling(seed=0), 70).sample(logits, bitmask({33}, 70)).token == 33


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("logits", "allowed", "min_tokens", "message"),
    [
        (LOGITS, set[int](), 0, "nothing in the model's vocabulary"),
        (LOGITS, {0}, 1, "min_tokens is 1"),
        (np.full(4, -np.inf, dtype=np.float32), {0, 1}, 0, "not finite"),
        (np.array([0, np.nan, 1, 2], dtype=np.float32), {0, 1, 2, 3}, 0, "not finite"),
        (np.array([0, np.inf, 1, 2], dtype=np.float32), {0, 1, 2, 3}, 0, "not finite"),
    ],
)
def test_sample_when_no_token_is_possible_then_it_says_why(
    logits: Floats, allowed: set[int], min_tokens: int, message: str, temperature: float
) -> None:
    made = sampler(Sampling(temperature=temperature, seed=0), ends=[0], min_tokens=min_tokens)
    with pytest.raises(RequestFailed, match=message):
        made.sample(logits, bitmask(allowed, 4))
    assert made.index == 0


def test_logprobs_when_parameters_are_set_then_of_the_raw_logits() -> None:
    sampling = Sampling(temperature=0, logit_bias=((3, 100.0),), repetition_penalty=2.0)
    made = sampler(sampling, prompt=[0], logprobs=2).sample(LOGITS, bitmask({2, 3}, 4)).logprob
    assert made is not None
    assert made.token == 3
    assert made.logprob == pytest.approx(math.log(0.1), abs=1e-6)
    assert [token for token, _ in made.top] == [0, 1]
    assert [value for _, value in made.top] == pytest.approx([math.log(0.5), math.log(0.25)], abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
    top=st.integers(0, 60),
    shift=st.floats(-50, 50),
)
def test_logprobs_when_compared_with_float64_then_equal(rows: int, scale: float, top: int, shift: float) -> None:
    generator = np.random.default_rng(rows)
    logits = (generator.normal(size=(3, 50)) * scale + shift).round(1).astype(np.float32)  # rounded: ties
    ids = [int(token) for token in generator.integers(0, 50, size=3)]
    for row, token, made in zip(logits.astype(np.float64), ids, token_logprobs(logits, ids, top), strict=True):
        exact = row - row.max() - np.log(np.exp(row - row.max()).sum())
        assert made.token == token
        assert made.logprob == pytest.approx(exact[token], abs=2e-5)
        assert [each for each, _ in made.top] == sorted(range(50), key=lambda i: (-row[i], i))[:top]
        assert [value for _, value in made.top] == pytest.approx([exact[each] for each, _ in made.top], abs=2e-5)


def test_logprob_when_a_token_is_impossible_then_minus_infinity() -> None:
    made = token_logprob(np.array([0.0, -np.inf], dtype=np.float32), 1, 2)
    assert made.logprob == -math.inf
    assert made.top == ((0, 0.0), (1, -math.inf))


def test_most_likely_when_ties_then_lower_ids() -> None:
    logits = np.array([1, 3, 2, 3, 2, 2], dtype=np.float32)
    assert [most_likely(logits, count).tolist() for count in (1, 2, 3, 4, 9)] == [
        [1],
        [1, 3],
        [1, 2, 3],
        [1, 2, 3, 4],
        [0, 1, 2, 3, 4, 5],
    ]
