"""The families of decoders: in what they differ, by the names that files give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace_models.config import Activation
from headrace_models.experts import Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyExperts:
    """What the experts of a family have in common; the fields are those of `ExpertsConfig`.

    llama.cpp reads `normalised` and `scores` from files of some families only; the others have these values.
    """

    normalised: bool = False
    scores: Scores = Scores.SOFTMAX
    shared_gate: bool = False
    score_bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What all models of a family have in common; the fields are those of `DecoderConfig`."""

    name: str
    """The architecture in GGUF files (`general.architecture`)."""
    model_types: tuple[str, ...]
    """The values of `model_type` in config.json."""
    paired_rows: bool = False
    """Whether GGUF files have the rows of queries and keys in pairs (`weights.unpaired_order`)."""
    qkv_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    activation: Activation = Activation.SILU
    scaled_embedding: bool = False
    """Whether embeddings are multiplied by the square root of the width."""
    norm_offset: float = 0.0
    """What is added to norm weights in safetensors to make them factors; GGUF files contain the sum."""
    window_pattern: int = 0
    """Every layer has a window but each n-th; 0: all layers have it, if there is one."""
    rope_theta: float = 10000.0
    window_rope_theta: float = 0.0
    """RoPE's bases of a file that names none."""
    wide_qk_norm: bool = False
    experts: FamilyExperts | None = None
    """None: the family is dense. A llama may have experts (Mixtral) or not."""


_ALL = (
    Family(
        name="llama",
        model_types=("llama", "mistral", "mixtral"),
        paired_rows=True,
        experts=FamilyExperts(normalised=True),
    ),
    Family(name="qwen2", model_types=("qwen2",), qkv_bias=True),
    Family(name="qwen3", model_types=("qwen3",), qk_norm=True),
    Family(name="olmoe", model_types=("olmoe",), qk_norm=True, wide_qk_norm=True, experts=FamilyExperts()),
    Family(name="qwen2moe", model_types=("qwen2_moe",), qkv_bias=True, experts=FamilyExperts(shared_gate=True)),
    Family(name="qwen3moe", model_types=("qwen3_moe",), qk_norm=True, experts=FamilyExperts(normalised=True)),
    Family(
        name="dots1",
        model_types=("dots1",),
        qk_norm=True,
        experts=FamilyExperts(scores=Scores.SIGMOID, score_bias=True),
    ),
    Family(
        name="gemma3",
        model_types=("gemma3_text",),
        qk_norm=True,
        post_norms=True,
        activation=Activation.GELU_TANH,
        scaled_embedding=True,
        norm_offset=1.0,
        window_pattern=6,
        rope_theta=1_000_000.0,
        window_rope_theta=10_000.0,
    ),
)
ARCHITECTURES: Mapping[str, Family] = {family.name: family for family in _ALL}
"""By the architecture in GGUF files."""
MODEL_TYPES: Mapping[str, Family] = {name: family for family in _ALL for name in family.model_types}
"""By `model_type` in config.json."""


def windows(size: int, with_window: list[bool]) -> tuple[int, ...]:
    """Return the windows of all layers, of one size; empty if no layer has one."""
    return tuple(size if each else 0 for each in with_window) if size and any(with_window) else ()
