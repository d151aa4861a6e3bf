"""The experts of a model from the header of its GGUF file."""

from __future__ import annotations

from collections.abc import Mapping

from headrace_models.checked_settings import CheckedSettings
from headrace_models.experts import ExpertsConfig, Scores
from headrace_models.families import Family

READ = frozenset(
    {
        "expert_count",
        "expert_feed_forward_length",
        "expert_gating_func",
        "expert_shared_count",
        "expert_shared_feed_forward_length",
        "expert_used_count",
        "expert_weights_norm",
        "expert_weights_scale",
        "leading_dense_block_count",
    }
)
"""Keys of the architecture that `read_experts` reads."""
_GATING: Mapping[object, Scores | None] = {0: None, 1: Scores.SOFTMAX, 2: Scores.SIGMOID}
"""Values of `expert_gating_func`; 0: the family's."""
_HINT = "This is not supported"


def read_experts(header: CheckedSettings, family: Family, layers: int) -> ExpertsConfig | None:
    """Return the experts; None for a dense model. The keys are those of llama.cpp. Raises InvalidModel."""
    if not header.get("expert_count"):
        return None
    rules = family.experts
    if rules is None:
        raise header.invalid(f"{header.name('expert_count')} = {str(header.get('expert_count'))[:80]}", hint=_HINT)
    width = header.count("expert_feed_forward_length", header.get("feed_forward_length"))
    gating = header.get("expert_gating_func", 0)
    if isinstance(gating, bool) or gating not in _GATING:
        raise header.invalid(f"{header.name('expert_gating_func')} = {str(gating)[:80]}", hint=_HINT)
    experts = ExpertsConfig(
        count=header.count("expert_count"),
        used=header.count("expert_used_count"),
        width=width,
        shared_width=_optional(header, "expert_shared_feed_forward_length")
        or _optional(header, "expert_shared_count") * width,
        shared_gate=rules.shared_gate,
        scores=_GATING[gating] or rules.scores,
        score_bias=rules.score_bias,
        normalised=header.get("expert_weights_norm", rules.normalised) is True,
        scale=header.number("expert_weights_scale", 1.0),
        first_layer=_optional(header, "leading_dense_block_count"),
    )
    if experts.used > experts.count or experts.first_layer >= layers:
        raise header.invalid(f"{experts.used} of {experts.count} experts from layer {experts.first_layer} of {layers}")
    return experts


def _optional(header: CheckedSettings, key: str) -> int:
    return header.count(key) if header.get(key) else 0
