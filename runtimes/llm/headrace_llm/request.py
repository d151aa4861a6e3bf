"""A request in the engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from headrace.errors import HeadraceError
from headrace.serving.engine import GenerationRequest, TokenLogprob
from headrace_llm.sampling.constraints import ConstraintMatcher
from headrace_llm.sampling.logprobs import token_logprob
from headrace_llm.sampling.sampler import Sampled, Sampler
from headrace_llm.sequence import Sequence
from headrace_llm.speculation import PromptLookup
from headrace_models.decoder import Floats


@dataclass(frozen=True, slots=True)
class Update:
    """What a step adds to an answer."""

    sampled: tuple[Sampled, ...]
    complete: bool
    """Whether the constraint allows nothing after these tokens."""
    cached_tokens: int
    prompt_logprobs: tuple[TokenLogprob | None, ...]
    """In the first update only."""


@dataclass(slots=True, eq=False)
class Request:
    """A request that the engine has admitted. Used by the engine's thread, except `outbox`, which the loop reads."""

    given: GenerationRequest
    sequence: Sequence
    sampler: Sampler
    ends: frozenset[int]
    """Tokens that end the answer."""
    longest: int
    """Tokens of prompt and answer at most."""
    outbox: asyncio.Queue[Update | HeadraceError]
    """Bounded by the answer's length."""
    constraint: ConstraintMatcher | None
    lookup: PromptLookup | None
    """None: no drafts."""
    prompt_logprobs: list[TokenLogprob | None] = field(default_factory=list)
    """Until the first update has them."""
    cancelled: bool = False
    """Whether its client has left before the answer's end."""

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt."""
        return len(self.given.prompt_tokens)

    @property
    def complete(self) -> bool:
        """Whether the constraint allows nothing after the tokens so far."""
        return self.constraint is not None and self.constraint.complete

    def drafts(self, limit: int, answers: int) -> list[int]:
        """Return at most `limit` tokens that may come next: what the constraint forces, else what came before.

        answers: how many answers the step continues.
        """
        limit = min(limit, self.longest - len(self.sequence.tokens) - 1)
        if self.lookup is None or limit <= 0:
            return []
        forced = self.constraint.forced()[:limit] if self.constraint is not None else []
        return forced or self.lookup.propose(self.sequence.tokens, limit, answers)

    def sample(self, rows: Floats, likeliest: list[int], drafts: list[int]) -> tuple[list[Sampled], bool]:
        """Return the next tokens and whether they end the answer: accepted drafts, and the token after them.

        rows: [1 + drafts, vocabulary], the logits after the last token and after each draft. `likeliest`: of each row,
        the token with the highest one. A draft is accepted exactly if it is the token that sampling chooses anyway, so
        the answer is the same as without drafts.
        """
        sampled: list[Sampled] = []
        for row, likely, draft in zip(rows, likeliest, [*drafts, None], strict=True):
            sampled.append(self._sample(row, likely))
            token = sampled[-1].token
            if token in self.ends and self.sampler.index > self.given.stop.min_tokens:
                return sampled, True
            if self.complete or len(self.sequence.tokens) + len(sampled) >= self.longest:
                return sampled, True
            if token != draft:
                break
        return sampled, False

    def _sample(self, row: Floats, likeliest: int) -> Sampled:
        if self.constraint is None:
            return self.sampler.sample(row, likeliest=likeliest)
        sampled = self.sampler.sample(row, self.constraint.allowed())
        self.constraint.advance(sampled.token)
        return sampled

    def score_prompt(self, rows: Floats, start: int) -> None:
        """Note the log probabilities of the prompt's tokens. rows: logits after the positions from `start` on."""
        prompt, top = self.given.prompt_tokens, self.given.prompt_logprobs
        assert top is not None
        if start == 0:
            self.prompt_logprobs = [None]
        known = len(self.prompt_logprobs)
        for row, token in zip(rows[known - 1 - start :], prompt[known:], strict=False):
            self.prompt_logprobs.append(token_logprob(row, token, top))
