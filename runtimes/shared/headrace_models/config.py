"""The shape of a decoder, whatever file it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headrace_models.experts import ExpertsConfig


class Activation(StrEnum):
    """The function of the gate in the feed-forward block."""

    SILU = "silu"
    GELU_TANH = "gelu-tanh"


class Pooling(StrEnum):
    """How the hidden states of a text become its embedding."""

    MEAN = "mean"
    LAST = "last"
    """That of the last token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The shape of a decoder of any supported family: families differ in these values only. Sizes are counts.

    Every loader provides queries and keys whose rotated pairs are (i, i + head_dim / 2), and norm weights as factors.
    """

    family: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_width: int
    vocabulary: int
    context: int
    """Longest training sequence, tokens."""
    norm_epsilon: float
    rope_theta: float
    rope_factors: tuple[float, ...] = ()
    """Divisors of the rotation frequencies, [head_dim / 2] (Llama 3); empty: 1."""
    rope_scale: float = 1.0
    """Factor of the positions (1 / factor of linear RoPE scaling), for layers without a window."""
    qkv_bias: bool = False
    """Qwen2."""
    qk_norm: bool = False
    """RMS norm of each head of queries and keys before the rotation (Qwen3, Gemma 3)."""
    wide_qk_norm: bool = False
    """With `qk_norm`: the norm is of all heads together (OLMoE)."""
    post_norms: bool = False
    """Further norms after attention and after the feed-forward block, before they are added (Gemma)."""
    activation: Activation = Activation.SILU
    embedding_scale: float = 1.0
    """Gemma: the square root of the width."""
    attention_scale: float = 0.0
    """Factor of the scores; 0: head_dim ** -0.5."""
    windows: tuple[int, ...] = ()
    """Per layer, positions that a query attends to, its own included; 0: all. Empty: 0 for all layers."""
    window_rope_theta: float = 0.0
    """RoPE's base of layers with a window; 0: `rope_theta` (Gemma 3 has another)."""
    tied: bool = True
    """Whether the output matrix is the embedding."""
    pooling: Pooling = Pooling.MEAN
    experts: ExpertsConfig | None = None
    """None: the model is dense."""

    def layer_experts(self, layer: int) -> ExpertsConfig | None:
        """Return the experts of a layer; None if it is dense."""
        return self.experts if self.experts is not None and layer >= self.experts.first_layer else None

    @property
    def score_factor(self) -> float:
        """Return the factor of the attention scores."""
        return self.attention_scale or self.head_dim**-0.5

    def window(self, layer: int) -> int:
        """Return how many positions a query of this layer attends to; 0: all."""
        return self.windows[layer] if self.windows else 0
