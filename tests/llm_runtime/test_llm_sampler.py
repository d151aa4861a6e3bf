"""Drawing tokens: each knob keeps what it says, and no setting is one that a request could break the engine with."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.serving.engine import Sampling
from headrace_llm.sampler import generator_of, sample

LOGITS = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.1]))
DRAWS = 300


def drawn(sampling: Sampling, logits: torch.Tensor = LOGITS) -> set[int]:
    generator = generator_of(sampling)
    return {sample(logits, sampling, generator) for _ in range(DRAWS)}


@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        (Sampling(temperature=0), {0}),
        (Sampling(seed=0), {0, 1, 2, 3}),
        (Sampling(seed=0, top_k=2), {0, 1}),
        (Sampling(seed=0, top_p=0.5), {0}),
        (Sampling(seed=0, top_p=0.7), {0, 1}),
        (Sampling(seed=0, top_k=3, top_p=0.95), {0, 1, 2}),
        (Sampling(seed=0, temperature=1e-320), {0}),
    ],
)
def test_draw_when_a_knob_is_set_then_only_what_it_keeps_comes(sampling: Sampling, possible: set[int]) -> None:
    assert drawn(sampling) == possible


@settings(max_examples=100, deadline=None)
@given(
    temperature=st.floats(0, 2),
    top_p=st.floats(0, 1, exclude_min=True),
    top_k=st.integers(0, 10),
    seed=st.integers(-(2**63), 2**64 - 1),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
)
def test_draw_when_settings_are_extreme_then_a_token_still_comes(
    temperature: float, top_p: float, top_k: int, seed: int, scale: float
) -> None:
    """Whatever a request may ask for, a token is drawn."""
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
    token = sample(LOGITS * scale, sampling, generator_of(sampling))
    assert 0 <= token < len(LOGITS)


def test_draws_when_the_seed_is_the_same_then_so_are_they() -> None:
    alone, crowded = Sampling(seed=7), Sampling(seed=8)
    first, again, other = generator_of(alone), generator_of(alone), generator_of(crowded)
    for _ in range(20):
        token = sample(LOGITS, alone, first)
        sample(LOGITS, crowded, other)
        assert sample(LOGITS, alone, again) == token
