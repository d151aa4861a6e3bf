"""Choosing the next token of a request, in the order that is usual: temperature, top-k, top-p, draw.

Each request draws from a generator of its own, so that what a seed gives does not depend on who else is in the batch.
"""

from __future__ import annotations

import torch

from headrace.serving.engine import Sampling

LEAST_TEMPERATURE = 1e-6
"""Below it a draw is greedy in float32 anyway; and less than float32 can hold would be a division by zero."""


def generator_of(sampling: Sampling) -> torch.Generator | None:
    """Return the request's source of randomness; None when it needs none."""
    if sampling.temperature == 0:
        return None
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    return generator


def sample(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator | None) -> int:
    """Return the token id of one row. logits: [vocabulary], float32."""
    return int(logits.argmax()) if generator is None else _draw(logits, sampling, generator)


def _draw(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw from one row. logits: [vocabulary], float32."""
    # The best becomes 0 first, so that no temperature, however small, makes an infinity of it.
    logits = (logits - logits.max()) / max(sampling.temperature, LEAST_TEMPERATURE)
    if sampling.top_k:
        least = torch.topk(logits, min(sampling.top_k, logits.numel())).values[-1]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = torch.softmax(logits, dim=-1)
    if sampling.top_p < 1.0:
        ordered, order = probabilities.sort(descending=True)
        before = ordered.cumsum(dim=-1) - ordered
        ordered[1:][before[1:] >= sampling.top_p] = 0.0  # the most likely token always stays
        probabilities = torch.zeros_like(probabilities).scatter(0, order, ordered)
    return int(torch.multinomial(probabilities, 1, generator=generator))
