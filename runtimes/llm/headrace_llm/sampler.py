"""Sampling of a request's next token in the usual order: temperature, top-k, top-p, draw.

Each request has its own generator, so that the result of a seed does not depend on the other requests of the batch.
"""

from __future__ import annotations

import torch

from headrace.serving.engine import Sampling

LEAST_TEMPERATURE = 1e-6
"""Below it a draw is greedy in float32 anyway, and a smaller value than float32 can represent would divide by zero."""


def generator_of(sampling: Sampling) -> torch.Generator | None:
    """Return the request's random generator; None for greedy sampling."""
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
    # The maximum is shifted to 0 first, so that no temperature, however small, makes it infinite.
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
