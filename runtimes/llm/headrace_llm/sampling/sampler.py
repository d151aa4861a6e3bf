"""The choice of a request's next token.

The order of the steps is vLLM's:

1. Log probabilities, if requested, of the logits as computed.
2. Tokens that the constraint excludes get -inf; so do the tokens that end the answer, before `min_tokens`.
3. logit_bias is added.
4. Repetition penalty r of tokens in prompt or answer: a positive logit is divided by r, another multiplied (Keskar et
   al., CTRL, 2019, section 4.1). Frequency penalty f, then presence penalty p, of tokens that are n times in the
   answer: the logit minus f * n, minus p.
5. Temperature 0: the highest logit, of equal ones the lowest id.
6. Weights w[i] = exp((x[i] - max x) / temperature). Tokens are ordered by logit, descending, equal ones by id,
   ascending. Three filters keep a beginning of this order: min_p those with w >= min_p (the highest w is 1), top_k the
   first k, and top_p, of the rest, the shortest beginning whose weights sum up to at least p of the rest's.
7. u = `uniform(seed, index)`, with the token's index in the answer; the token is the first one, in ascending order of
   ids, at which the running sum of kept weights exceeds u * their sum (the inverse of the distribution function).

Logits and weights are float32, sums of weights float64. The result is exact but for rounding: it may differ from one
computed in real numbers if u is within about 1e-7 of a token's border.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.serving.engine import Sampling, TokenLogprob
from headrace.serving.errors import RequestFailed
from headrace_llm.sampling.logprobs import Ids, most_likely, token_logprob
from headrace_llm.sampling.uniform import random_seed, uniform
from headrace_models.decoder import Floats

Bitmask = npt.NDArray[np.uint32]
"""A bit per token id, lowest bit first: whether the token is allowed. [(vocabulary + 31) // 32]."""

LEAST_TEMPERATURE = 1e-6
"""Below it a draw is greedy in float32 anyway, and a smaller value than float32 can represent would divide by zero."""
HIGHEST_TEMPERATURE = 1e30
"""Above it all tokens are equally likely in float32 anyway, and infinity would make an excluded token NaN."""
_BLOCK = 256
"""Weights are summed in blocks first, so that the running sum is computed in one block only."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A chosen token."""

    token: int
    logprob: TokenLogprob | None = None
    """If log probabilities are requested."""


class Sampler:
    """Chooses the tokens of one answer, one call of `sample` per token.

    Its state is what it was constructed with and the tokens of the answer. To continue an answer elsewhere, construct
    another with the same arguments, its `seed`, and `answered` tokens.

        sampler = Sampler(request.sampling, vocabulary=tokenizer.vocabulary, prompt=request.prompt_tokens,
                          ends=ends, min_tokens=request.stop.min_tokens, logprobs=request.logprobs)
        sampled = sampler.sample(logits, allowed)   # once per token; `allowed` is the constraint's mask or None

    A draft is verified exactly by sampling its rows in order: the first token that differs from the draft's ends it.
    """

    def __init__(
        self,
        sampling: Sampling,
        *,
        vocabulary: int,
        prompt: Sequence[int] = (),
        answered: Sequence[int] = (),
        ends: Iterable[int] = (),
        min_tokens: int = 0,
        logprobs: int | None = None,
    ) -> None:
        """`ends`: tokens excluded before `min_tokens`, as they end the answer. `logprobs`: alternatives per token.

        Token ids that are outside the vocabulary raise IndexError.
        """
        self.seed = random_seed() if sampling.seed is None else sampling.seed
        self.index = len(answered)
        """Index of the next token in the answer."""
        self._sampling = sampling
        self._ends = np.array(sorted(ends), dtype=np.intp)
        self._min_tokens = min_tokens
        self._logprobs = logprobs
        self._biased = np.array([token for token, _ in sampling.logit_bias], dtype=np.intp)
        self._bias = np.array([bias for _, bias in sampling.logit_bias], dtype=np.float32)
        self._counts: npt.NDArray[np.int32] | None = None
        """[vocabulary]; how often a token is in the answer, if a penalty needs it."""
        if sampling.presence_penalty or sampling.frequency_penalty:
            self._counts = np.zeros(vocabulary, dtype=np.int32)
            np.add.at(self._counts, list(answered), 1)
        self._seen: npt.NDArray[np.bool_] | None = None
        """[vocabulary]; whether a token is in prompt or answer, if the repetition penalty needs it."""
        if sampling.repetition_penalty != 1.0:
            self._seen = np.zeros(vocabulary, dtype=np.bool_)
            self._seen[[*prompt, *answered]] = True

    def sample(self, logits: Floats, allowed: Bitmask | None = None, *, likeliest: int | None = None) -> Sampled:
        """Choose the next token, and count it as part of the answer.

        logits: [vocabulary], float32, not changed. `likeliest`: their argmax, if the caller knows it. Raises
        RequestFailed if no token is allowed or the logits are not finite; the answer is then as before.
        """
        adjusted = self._adjust(logits, allowed)
        if likeliest is None or adjusted is not logits:
            likeliest = int(adjusted.argmax())  # of NaNs, the first
        highest = adjusted[likeliest]
        if not math.isfinite(highest):
            raise self._no_token(logits)
        temperature = self._sampling.temperature
        token = likeliest if temperature == 0 else self._draw(adjusted, highest)
        logprob = None if self._logprobs is None else token_logprob(logits, token, self._logprobs)
        self.accept(token)
        return Sampled(token, logprob)

    def accept(self, token: int) -> None:
        """Count a token as part of the answer that is not sampled, because a constraint forces it."""
        self.index += 1
        if self._counts is not None:
            self._counts[token] += 1
        if self._seen is not None:
            self._seen[token] = True

    def _adjust(self, logits: Floats, allowed: Bitmask | None) -> Floats:
        """Return the logits after steps 2 to 4; the same array if there is nothing to do."""
        changed = logits
        if allowed is not None:
            changed = np.minimum(logits, _bounds(allowed, len(logits)))
        early = self.index < self._min_tokens and len(self._ends)
        adjusts = early or len(self._biased) or self._seen is not None or self._counts is not None
        if changed is logits and adjusts:
            changed = logits.copy()
        if early:
            changed[self._ends] = -np.inf
        if len(self._biased):
            np.add.at(changed, self._biased, self._bias)
        if self._seen is not None:
            tokens = np.flatnonzero(self._seen)
            penalty, found = np.float32(self._sampling.repetition_penalty), changed[tokens]
            changed[tokens] = np.where(found > 0, found / penalty, found * penalty)
        if self._counts is not None:
            tokens = np.flatnonzero(self._counts)
            changed[tokens] -= np.float32(self._sampling.frequency_penalty) * self._counts[tokens].astype(np.float32)
            changed[tokens] -= np.float32(self._sampling.presence_penalty)
        return changed

    def _draw(self, logits: Floats, highest: np.float32) -> int:
        """Return a token drawn by steps 6 and 7."""
        temperature = min(max(self._sampling.temperature, LEAST_TEMPERATURE), HIGHEST_TEMPERATURE)
        weights = _weights(logits, highest, temperature)
        kept = self._keep(logits, weights, highest, temperature)
        if kept is None:
            return _inverse(weights, uniform(self.seed, self.index))
        return int(kept[_inverse(weights[kept], uniform(self.seed, self.index))])

    def _keep(self, logits: Floats, weights: Floats, highest: np.float32, temperature: float) -> Ids | None:
        """Return the ids that the filters keep, ascending; None: all."""
        sampling, kept = self._sampling, None
        if sampling.top_k and sampling.top_k < len(logits):
            kept = most_likely(logits, sampling.top_k)
        if sampling.min_p > 0:
            kept = np.flatnonzero(weights >= sampling.min_p) if kept is None else kept[weights[kept] >= sampling.min_p]
        if sampling.top_p < 1.0:
            rest = weights if kept is None else weights[kept]
            total = float(rest.sum(dtype=np.float64))
            # Weights below this sum up to less than 1 - p of the total, so the others reach p: only these are sorted.
            found = np.flatnonzero(rest >= (1.0 - sampling.top_p) * total / (2 * len(rest)))
            kept = found if kept is None else kept[found]
            ordered = np.sort(logits[kept])[::-1]
            sums = _weights(ordered, highest, temperature).cumsum(dtype=np.float64)
            count = int(np.searchsorted(sums, sampling.top_p * total)) + 1
            kept = kept[most_likely(logits[kept], count)]
        return kept

    def _no_token(self, logits: Floats) -> RequestFailed:
        if not np.isfinite(logits.max()):
            return RequestFailed("the model computed logits that are not finite numbers")
        if self.index < self._min_tokens:
            return RequestFailed(
                f"no token is allowed: the answer matches its format after {self.index} tokens, and min_tokens is "
                f"{self._min_tokens}",
                hint="Lower min_tokens, or let the format contain longer answers",
            )
        return RequestFailed("no token is allowed: nothing in the model's vocabulary continues the answer's format")


def _bounds(allowed: Bitmask, vocabulary: int) -> Floats:
    """Return infinity for allowed tokens, -infinity for others: arithmetic, faster than a selection."""
    bounds = np.unpackbits(allowed.view(np.uint8), count=vocabulary, bitorder="little").astype(np.float32)
    bounds -= 0.5
    bounds *= np.inf
    return bounds


def _weights(logits: Floats, highest: np.float32, temperature: float) -> Floats:
    """Return exp((logits - highest) / temperature), float32."""
    with np.errstate(over="ignore"):  # a difference beyond float32 has the weight 0
        weights: Floats = logits - highest
        if temperature != 1.0:
            weights /= np.float32(temperature)
    np.exp(weights, out=weights)
    return weights


def _inverse(weights: Floats, u: float) -> int:
    """Return the first index at which the running sum of the weights exceeds u times their sum. weights: [n]."""
    starts = np.arange(0, len(weights), _BLOCK)
    sums = np.add.reduceat(weights, starts, dtype=np.float64).cumsum()
    total = float(sums[-1])
    if not total > 0:
        raise RequestFailed("the sampling parameters leave no token")
    block = min(int(np.searchsorted(sums, u * total, side="right")), len(sums) - 1)
    before = float(sums[block - 1]) if block else 0.0
    inside = weights[block * _BLOCK : (block + 1) * _BLOCK]
    index = int(np.searchsorted(inside.cumsum(dtype=np.float64), u * total - before, side="right"))
    if index == len(inside):  # only by rounding
        index = int(np.flatnonzero(inside)[-1])
    return block * _BLOCK + index
