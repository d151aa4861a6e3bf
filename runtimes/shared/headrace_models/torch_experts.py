"""The feed-forward block of a layer in torch: dense, or a mixture of experts in six parts (FSMoE, section 4).

gate: scores of the experts, and the choice; order: pairs of token and expert, by expert; dispatch: the rows of each
expert; expert: its products; i-order: results back in the order of the pairs; combine: the weighted sum of each token.

Exactness: float32; a token's results are added in the order of its choice, as llama.cpp does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from headrace_models.config import Activation, DecoderConfig
from headrace_models.experts import ExpertsConfig, Scores
from headrace_models.torch_weights import WeightLoader


@dataclass(frozen=True, slots=True)
class FeedForward:
    """A dense block, or one expert."""

    gate_up: Tensor
    """[2 * ffn width, width]"""
    down: Tensor
    """[width, ffn width]"""
    activation: Activation

    @classmethod
    def of(cls, loader: WeightLoader, layer: int, suffix: str, activation: Activation) -> FeedForward:
        """Add the weights of a block to those that are loaded."""
        gate, up, down = (f"blk.{layer}.ffn_{part}{suffix}.weight" for part in ("gate", "up", "down"))
        return cls(loader.add(gate, up), loader.add(down), activation)

    def __call__(self, normed: Tensor) -> Tensor:
        """Return [tokens, width]. normed: [tokens, width]."""
        gate, up = functional.linear(normed, self.gate_up).chunk(2, dim=-1)
        return functional.linear(activated(gate, self.activation) * up, self.down)


@dataclass(frozen=True, slots=True)
class Routing:
    """The choice of a gate."""

    experts: Tensor
    """[tokens, used], int64, by falling score."""
    weights: Tensor
    """[tokens, used], float32."""


@dataclass(frozen=True, slots=True)
class _Order:
    """Pairs of token and choice, sorted by expert."""

    pairs: Tensor
    """[tokens * used]: token * used + choice."""
    counts: list[int]
    """Pairs of each expert."""


@dataclass(frozen=True, slots=True)
class ExpertsLayer:
    """The mixture of experts of a layer."""

    config: ExpertsConfig
    router: Tensor
    """[experts, width]"""
    score_bias: Tensor | None
    """[experts]"""
    experts: tuple[FeedForward, ...]
    shared: FeedForward | None
    shared_gate: Tensor | None
    """[width]"""

    @classmethod
    def of(cls, loader: WeightLoader, layer: int, config: DecoderConfig, experts: ExpertsConfig) -> ExpertsLayer:
        """Add the weights of a layer to those that are loaded."""

        def add(name: str, *, present: bool) -> Tensor | None:
            return loader.add(f"blk.{layer}.{name}") if present else None

        def block(suffix: str) -> FeedForward:
            return FeedForward.of(loader, layer, suffix, config.activation)

        return cls(
            config=experts,
            router=loader.add(f"blk.{layer}.ffn_gate_inp.weight"),
            score_bias=add("exp_probs_b.bias", present=experts.score_bias),
            experts=tuple(block(f".{expert}") for expert in range(experts.count)),
            shared=block("_shexp") if experts.shared_width else None,
            shared_gate=add("ffn_gate_inp_shexp.weight", present=experts.shared_gate),
        )

    def __call__(self, normed: Tensor) -> Tensor:
        """Return what is added to the hidden states: [tokens, width]. normed: [tokens, width]."""
        routing = self.gate(normed)
        order = self._order(routing)
        rows = self._dispatch(normed, order)
        done = [expert(part) for expert, part in zip(self.experts, rows, strict=True) if len(part)]
        added = _combine(_in_order(torch.cat(done), order), routing)
        if self.shared is not None:
            shared = self.shared(normed)
            if self.shared_gate is not None:
                shared = shared * functional.linear(normed, self.shared_gate).sigmoid().unsqueeze(-1)
            added = added + shared
        return added

    def gate(self, normed: Tensor) -> Routing:
        """Choose the experts of each token."""
        config = self.config
        logits = functional.linear(normed, self.router)
        scores = logits.softmax(-1) if config.scores is Scores.SOFTMAX else logits.sigmoid()
        chosen = (scores if self.score_bias is None else scores + self.score_bias).topk(config.used, dim=-1).indices
        weights = scores.gather(1, chosen)
        if config.normalised:
            weights = weights / (weights.sum(-1, keepdim=True) + (1e-20 if config.scores is Scores.SIGMOID else 0.0))
        return Routing(chosen, weights * config.scale)

    def _order(self, routing: Routing) -> _Order:
        flat = routing.experts.flatten()
        return _Order(flat.argsort(stable=True), torch.bincount(flat, minlength=self.config.count).tolist())

    def _dispatch(self, normed: Tensor, order: _Order) -> tuple[Tensor, ...]:
        """Return each expert's rows: [pairs of the expert, width] each."""
        return torch.split(normed[order.pairs // self.config.used], order.counts)


def _in_order(results: Tensor, order: _Order) -> Tensor:
    """Return the results in the order of the pairs: [tokens * used, width]."""
    return torch.empty_like(results).index_copy_(0, order.pairs, results)


def _combine(results: Tensor, routing: Routing) -> Tensor:
    """Return the weighted sum of each token: [tokens, width]."""
    tokens, used = routing.weights.shape
    return (results.view(tokens, used, -1) * routing.weights.unsqueeze(-1)).sum(1)


def activated(gate: Tensor, activation: Activation) -> Tensor:
    """Return the activation of a gate."""
    match activation:
        case Activation.SILU:
            return functional.silu(gate)
        case Activation.GELU_TANH:
            return functional.gelu(gate, approximate="tanh")
