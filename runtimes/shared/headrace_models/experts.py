"""The mixture of experts of a decoder: its shape, and how a router's scores choose the experts of a token."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Scores(StrEnum):
    """What the router's logits become."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    """DeepSeek V3: scores of experts are independent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsConfig:
    """The experts of a decoder's layers. Widths are of feed-forward blocks.

    A token's result is the sum over its `used` experts of weight * expert(x), plus that of the shared expert. The
    experts are those with the highest score (plus bias, if there is one); the weight is the score without the bias.
    """

    count: int
    used: int
    """Experts per token."""
    width: int
    shared_width: int = 0
    """Of the expert that computes every token; 0: there is none. Several of them are one with the sum of widths."""
    shared_gate: bool = False
    """Whether the shared expert's result is multiplied by a sigmoid of its own (Qwen2-MoE)."""
    scores: Scores = Scores.SOFTMAX
    score_bias: bool = False
    """Whether a bias is added to the scores for the choice alone (DeepSeek V3)."""
    normalised: bool = False
    """Whether the weights of a token are divided by their sum."""
    scale: float = 1.0
    """Factor of the weights."""
    first_layer: int = 0
    """The layers below are dense."""
