"""The shape of a model from the config.json that transformers writes.

As with GGUF headers, settings that this runtime does not implement are rejected by name, by a list of the known ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from headrace.errors import InvalidModel
from headrace_models import hf_experts
from headrace_models.config import Activation, DecoderConfig
from headrace_models.families import MODEL_TYPES, Family, windows
from headrace_models.hf_settings import Settings

_READ = hf_experts.READ | frozenset(
    {
        "head_dim",
        "hidden_act",
        "hidden_activation",
        "hidden_size",
        "intermediate_size",
        "layer_types",
        "max_position_embeddings",
        "max_window_layers",
        "model_type",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "query_pre_attn_scalar",
        "rms_norm_eps",
        "rope_local_base_freq",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "sliding_window",
        "sliding_window_pattern",
        "_sliding_window_pattern",
        "tie_word_embeddings",
        "use_sliding_window",
        "vocab_size",
    }
)
_WITHOUT_EFFECT = frozenset(
    {
        "_name_or_path",
        "architectures",
        "attention_dropout",  # of training
        "bos_token_id",  # of the tokenizer's own files
        "cache_implementation",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",  # read with the tokens
        "id2label",
        "initializer_range",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "output_router_logits",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "torch_dtype",
        "transformers.js_config",
        "transformers_version",
        "use_cache",
    }
)
_NO_EFFECT: Mapping[str, tuple[object, ...]] = {
    "attention_bias": (False,),
    "attn_logit_softcapping": (None,),
    "clip_qkv": (None,),
    "decoder_sparse_step": (1,),
    "final_logit_softcapping": (None,),
    "is_encoder_decoder": (False,),
    "is_llama_config": (True,),
    "mlp_bias": (False,),
    "mlp_only_layers": ([],),
    "n_group": (None, 1),
    "partial_rotary_factor": (1.0,),
    "pretraining_tp": (1,),
    "qkv_bias": (True,),  # of Qwen2-MoE, whose family has it
    "rope_interleaved": (False,),
    "topk_group": (None, 1),
    "use_bidirectional_attention": (None, False),
}
"""Other settings, each with the values that do not change the answer."""
_ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
}
_ROPE_KEYS = frozenset(
    {
        "factor",
        "high_freq_factor",
        "low_freq_factor",
        "original_max_position_embeddings",
        "rope_theta",
        "rope_type",
        "type",
    }
)


def hf_config(name: str, values: Mapping[str, Any], *, has_head: bool) -> DecoderConfig:
    """Return the configuration. `name`: the file's, for messages; `has_head`: whether there is an output matrix.

    Raises InvalidModel: for the family first, then for settings that are not computed here, then the rest.
    """
    settings = Settings(name, values)
    family = MODEL_TYPES.get(str(settings.get("model_type")))
    if family is None:
        raise InvalidModel(
            f"{name} is of the model_type {str(settings.get('model_type'))[:80]!r}",
            hint=f"This runtime serves: {', '.join(MODEL_TYPES)}",
        )
    _check_variant(settings)
    heads, width = settings.count("num_attention_heads"), settings.count("hidden_size")
    kv_heads, layers = settings.count("num_key_value_heads", heads), settings.count("num_hidden_layers")
    head_dim = settings.count("head_dim", width // heads or 1)
    if heads % kv_heads or head_dim % 2:
        raise settings.invalid(f"{heads} heads of {head_dim} for {kv_heads} key-value heads, which do not fit")
    rope, window_theta = _rope_settings(settings, family)
    factors, scale = _rope_scaling(rope, head_dim)
    sizes = _windows(settings, family, layers)
    if sizes and not family.window_rope_theta and (factors or scale != 1):
        raise settings.unsupported("RoPE scaling together with a sliding window")
    scores = settings.get("query_pre_attn_scalar")
    return DecoderConfig(
        family=family.name,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_width=settings.count("intermediate_size"),
        vocabulary=settings.count("vocab_size"),
        context=settings.count("max_position_embeddings"),
        norm_epsilon=settings.number("rms_norm_eps"),
        rope_theta=rope.number("rope_theta", settings.number("rope_theta", family.rope_theta)),
        rope_factors=factors,
        rope_scale=scale,
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        wide_qk_norm=family.wide_qk_norm,
        post_norms=family.post_norms,
        activation=_activation(settings, family),
        embedding_scale=math.sqrt(width) if family.scaled_embedding else 1.0,
        attention_scale=0.0 if scores is None else settings.number("query_pre_attn_scalar") ** -0.5,
        windows=sizes,
        window_rope_theta=window_theta,
        tied=settings.get("tie_word_embeddings") is True or not has_head,
        experts=hf_experts.read_experts(settings, family, layers),
    )


def _check_variant(settings: Settings) -> None:
    changing = [
        f"{key} = {str(value)[:80]}"
        for key, value in settings.values.items()
        if key not in _READ | _WITHOUT_EFFECT and value not in _NO_EFFECT.get(key, ())
    ]
    if changing:
        raise settings.unsupported(", ".join(changing[:3]))


def _activation(settings: Settings, family: Family) -> Activation:
    name = settings.get("hidden_activation") or settings.get("hidden_act")
    if name is None:
        return family.activation
    if name not in _ACTIVATIONS:
        raise settings.unsupported(f"hidden_act = {str(name)[:80]}")
    return _ACTIVATIONS[name]


def _rope_settings(settings: Settings, family: Family) -> tuple[Settings, float]:
    """Return RoPE's settings for layers without a window, and its base for those with one.

    `rope_parameters` (transformers 5) has the base in it, and one object for each kind of layer if they differ;
    before, there were `rope_theta`, `rope_scaling` and `rope_local_base_freq`.
    """
    new = settings.get("rope_parameters")
    found = new if new is not None else settings.get("rope_scaling") or {}
    window_theta = settings.number("rope_local_base_freq", family.window_rope_theta or 1.0)
    if isinstance(found, dict) and found.keys() <= {"full_attention", "sliding_attention"} and found:
        window = Settings(f"{settings.file}, rope_parameters.sliding_attention,", found.get("sliding_attention") or {})
        if window.get("rope_type") not in (None, "default"):
            raise window.unsupported(f"rope_type = {str(window.get('rope_type'))[:80]}")
        window_theta, found = window.number("rope_theta", window_theta), found.get("full_attention") or {}
    if not isinstance(found, dict):
        raise settings.invalid(f"{str(found)[:80]} as rope_scaling")
    return Settings(f"{settings.file}, rope_scaling,", found), window_theta if family.window_rope_theta else 0.0


def _rope_scaling(rope: Settings, head_dim: int) -> tuple[tuple[float, ...], float]:
    """Return `DecoderConfig`'s rope_factors and rope_scale."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    unknown = sorted(
        key for key, value in rope.values.items() if key not in _ROPE_KEYS and value not in _NO_EFFECT.get(key, ())
    )
    if unknown or kind not in ("default", "linear", "llama3"):
        raise rope.unsupported(f"rope_type = {str(kind)[:80]} with {', '.join(unknown[:3]) or 'its factors'}")
    if kind == "linear":
        return (), 1.0 / rope.number("factor")
    return (_llama3_factors(rope, head_dim) if kind == "llama3" else ()), 1.0


def _llama3_factors(rope: Settings, head_dim: int) -> tuple[float, ...]:
    """Return the divisors of the frequencies: those of long wavelengths are scaled, with a smooth transition.

    Source: `apply_scaling` of Meta's Llama 3.1 reference implementation.
    """
    low, high, factor = (rope.number(key) for key in ("low_freq_factor", "high_freq_factor", "factor"))
    trained, theta = rope.number("original_max_position_embeddings"), rope.number("rope_theta", 500_000.0)
    if high <= low:
        raise rope.invalid(f"high_freq_factor = {high} for low_freq_factor = {low}")
    factors = []
    for pair in range(0, head_dim, 2):
        rotations = trained / (2 * math.pi * theta ** (pair / head_dim))
        smooth = min(max((rotations - low) / (high - low), 0.0), 1.0)
        factors.append(1.0 / ((1.0 - smooth) / factor + smooth))
    return tuple(factors)


def _windows(settings: Settings, family: Family, layers: int) -> tuple[int, ...]:
    if settings.get("use_sliding_window") is False or settings.get("sliding_window") is None:
        return ()
    size = settings.count("sliding_window")
    kinds = settings.get("layer_types")
    if kinds is not None:
        known = ("full_attention", "sliding_attention")
        if not isinstance(kinds, list) or len(kinds) != layers or not all(kind in known for kind in kinds):
            raise settings.invalid(f"no layer_types of {' or '.join(known)} for each of its {layers} layers")
        return windows(size, [kind == "sliding_attention" for kind in kinds])
    if family.window_pattern:
        key = "_sliding_window_pattern" if "_sliding_window_pattern" in settings.values else "sliding_window_pattern"
        every = settings.count(key, family.window_pattern)
        return windows(size, [bool((layer + 1) % every) for layer in range(layers)])
    first = settings.get("max_window_layers") or 0  # Qwen2: the layers below have no window
    if not isinstance(first, int):
        raise settings.invalid(f"{str(first)[:80]} as max_window_layers")
    return windows(size, [layer >= first for layer in range(layers)])
