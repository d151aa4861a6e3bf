"""The experts of a model from its config.json, whose names differ between the families."""

from __future__ import annotations

from headrace_models.experts import ExpertsConfig
from headrace_models.families import Family
from headrace_models.hf_settings import Settings

_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
READ = frozenset(
    {
        *_COUNTS,
        "first_k_dense_replace",
        "moe_intermediate_size",
        "n_shared_experts",
        "norm_topk_prob",
        "num_experts_per_tok",
        "routed_scaling_factor",
        "shared_expert_intermediate_size",
    }
)
"""Settings that `read_experts` reads."""


def read_experts(settings: Settings, family: Family, layers: int) -> ExpertsConfig | None:
    """Return the experts; None for a dense model. Raises InvalidModel."""
    counts = [key for key in _COUNTS if settings.get(key) is not None]
    if not counts:
        return None
    rules = family.experts
    if rules is None:
        raise settings.unsupported(f"{counts[0]} = {str(settings.get(counts[0]))[:80]}")
    width = settings.count("moe_intermediate_size", settings.count("intermediate_size"))
    normalised = settings.get("norm_topk_prob")
    experts = ExpertsConfig(
        count=settings.count(counts[0]),
        used=settings.count("num_experts_per_tok"),
        width=width,
        shared_width=_shared_width(settings, width),
        shared_gate=rules.shared_gate,
        scores=rules.scores,
        score_bias=rules.score_bias,
        normalised=rules.normalised if normalised is None else normalised is True,
        scale=settings.number("routed_scaling_factor", 1.0),
        first_layer=settings.count("first_k_dense_replace") if settings.get("first_k_dense_replace") else 0,
    )
    if experts.used > experts.count or experts.first_layer >= layers:
        raise settings.invalid(
            f"{experts.used} of {experts.count} experts from layer {experts.first_layer} of {layers}"
        )
    return experts


def _shared_width(settings: Settings, width: int) -> int:
    if settings.get("n_shared_experts"):
        return settings.count("n_shared_experts") * width
    key = "shared_expert_intermediate_size"
    return settings.count(key) if settings.get(key) else 0
