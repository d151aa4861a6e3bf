"""A request's tokens and its part of the KV cache, as scheduler and cache see them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Sequence:
    """The tokens of one prompt and its answer. The scheduler computes them until none is pending."""

    tokens: list[int]
    salt: bytes = b""
    """Sequences share cached prefixes only if theirs are equal."""
    adapter: int = 0
    """Index of its LoRA adapter; 0: none."""
    reports_prompt: bool = False
    """Whether the results of all prompt tokens are wanted: then nothing of the prompt is taken from the cache."""
    embeds: bool = False
    """Whether the results are hidden states instead of logits."""
    drafts: list[int] = field(default_factory=list)
    """Tokens that may follow `tokens`; the next step computes them too, and sampling accepts or rejects them."""
    computed: int = 0
    """Tokens whose keys and values are in the cache."""
    blocks: list[int] = field(default_factory=list)
    """Block table: block i has the positions from i * block_tokens on."""
    chain: list[bytes] = field(default_factory=list)
    """Digests of the full blocks of `tokens`, each of everything up to its end; computed when needed."""
    cached: int | None = None
    """Tokens that the prefix cache had when it was first admitted."""

    @property
    def pending(self) -> int:
        """Tokens that are not computed yet."""
        return len(self.tokens) - self.computed

    @property
    def decodes(self) -> bool:
        """Whether the next step samples its next token from one pending token: the prompt is computed."""
        return self.pending == 1 and self.computed > 0
