"""The shape of a model from the header of its GGUF file.

Settings in the header that this runtime does not implement are rejected by name, by a list of the known ones, so that a
file that loads gives correct answers. A list of rejected settings would be outdated by the next converter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from headrace.errors import InvalidModel
from headrace_models.checked_settings import CheckedSettings
from headrace_models.config import DecoderConfig, Pooling
from headrace_models.encodings import TensorType
from headrace_models.families import ARCHITECTURES, Family, windows
from headrace_models.gguf import GGUFFile
from headrace_models.gguf_experts import READ, read_experts

ROPE_FACTORS = "rope_freqs.weight"
"""Llama 3's divisors of the rotation frequencies: a tensor that is part of the configuration."""
_GEMMA3_27B_LAYERS = 62
"""Gemma 3 27B scales its scores by the width per head, and its files do not say so. llama.cpp uses this number, too."""

_POOLINGS: Mapping[object, Pooling] = {0: Pooling.MEAN, 1: Pooling.MEAN, 3: Pooling.LAST}

_READ = READ | frozenset(
    {
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.layer_norm_rms_epsilon",
        "attention.scale",
        "attention.sliding_window",
        "attention.sliding_window_pattern",
        "attention.value_length",
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "pooling_type",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.freq_base_swa",
        "rope.scale_linear",
        "rope.scaling.factor",
        "rope.scaling.type",
        "vocab_size",
    }
)
"""Keys of the architecture that `gguf_config` reads."""
_NO_EFFECT: Mapping[str, tuple[object, ...]] = {
    "rope.scaling.attn_factor": (1,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.logit_softcapping": (0,),
    "attention.max_alibi_bias": (0,),
    "attn_logit_softcapping": (0,),
    "embedding_scale": (1,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "interleave_moe_layer_step": (0, 1),
    "moe_every_n_layers": (0, 1),
    "final_logit_softcapping": (0,),
    "logit_scale": (1,),
    "residual_scale": (1,),
    "tensor_data_layout": ("Meta AI original pth",),  # rows of queries and keys in pairs, as in every llama file
    "use_parallel_residual": (False,),
}
"""Other keys, each with the values that do not change the answer."""
_ALWAYS_WITHOUT_EFFECT = frozenset({"rope.scaling.finetuned", "rope.scaling.original_context_length"})
"""Keys that only describe a scaling with its own key."""


def gguf_config(file: GGUFFile) -> DecoderConfig:
    """Return the configuration. Raises InvalidModel: for the architecture first, then encodings, then the rest.

    That order is a person's: whether a model can be served at all comes before how it has to be prepared.
    """
    family = _family(file)
    tensors = file.tensors
    _check_variant(file)
    prefix = f"{file.metadata['general.architecture']}."
    header = CheckedSettings(file.path.name, file.metadata, prefix=prefix, hint="Convert the model again")
    heads, width, layers = (header.count(key) for key in ("attention.head_count", "embedding_length", "block_count"))
    kv_heads = header.count("attention.head_count_kv", heads)
    if "attention.key_length" not in header and width % heads:
        raise header.invalid(f"an embedding of {width} for {heads} heads, which does not divide it")
    head_dim = header.count("attention.key_length", width // heads)
    if heads % kv_heads:
        raise header.invalid(f"{heads} heads for {kv_heads} key-value heads, which do not divide them")
    if head_dim % 2:
        raise header.invalid(f"heads of {head_dim}, and rotation needs an even number")
    for key, needed in (("attention.value_length", head_dim), ("rope.dimension_count", head_dim)):
        if header.count(key, needed) != needed:
            raise header.invalid(
                f"{header.name(key)} = {header.count(key)} for heads of {needed}", hint="This is not supported yet"
            )
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:  # noqa: PLR2004 - a matrix
        raise header.invalid("no token embedding (token_embd.weight)")
    rows = embedding.shape[0]
    if header.count("vocab_size", rows) != rows:
        raise header.invalid(f"{rows} rows of embedding for {header.name('vocab_size')} = {header.get('vocab_size')}")
    sizes = _windows(header, family, layers)
    factors, scale = _rope_factors(header, file, head_dim), _rope_scale(header)
    if sizes and not family.window_rope_theta and (factors or scale != 1):
        raise header.invalid("RoPE scaling together with a sliding window", hint="This is not supported yet")
    return DecoderConfig(
        family=family.name,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_width=header.count("feed_forward_length", header.get("expert_feed_forward_length")),
        vocabulary=rows,
        context=header.count("context_length"),
        norm_epsilon=header.number("attention.layer_norm_rms_epsilon"),
        rope_theta=header.number("rope.freq_base", family.rope_theta),
        rope_factors=factors,
        rope_scale=scale,
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        wide_qk_norm=family.wide_qk_norm,
        post_norms=family.post_norms,
        activation=family.activation,
        embedding_scale=math.sqrt(width) if family.scaled_embedding else 1.0,
        attention_scale=_attention_scale(header, family, layers, width / heads),
        windows=sizes,
        window_rope_theta=_window_rope_theta(header, family),
        tied="output.weight" not in tensors,
        pooling=_pooling(header),
        experts=read_experts(header, family, layers),
    )


def _pooling(header: CheckedSettings) -> Pooling:
    """Return the pooling of embeddings (llama.cpp's `llama_pooling_type`); a model of text names none, or NONE."""
    kind = header.get("pooling_type", 0)
    if isinstance(kind, bool) or kind not in _POOLINGS:
        raise header.invalid(
            f"{header.name('pooling_type')} = {str(kind)[:80]}", hint="This is not supported: 1 (mean) and 3 (last) are"
        )
    return _POOLINGS[kind]


def _windows(header: CheckedSettings, family: Family, layers: int) -> tuple[int, ...]:
    if not header.get("attention.sliding_window"):
        return ()
    pattern = header.get("attention.sliding_window_pattern", family.window_pattern)
    if isinstance(pattern, list):
        if len(pattern) != layers or not all(isinstance(each, bool) for each in pattern):
            raise header.invalid(
                f"no {header.name('attention.sliding_window_pattern')} for each of its {layers} layers"
            )
        chosen = pattern
    else:
        every = header.count("attention.sliding_window_pattern", pattern) if pattern else layers + 1
        chosen = [bool((layer + 1) % every) for layer in range(layers)]
    return windows(header.count("attention.sliding_window"), chosen)


def _window_rope_theta(header: CheckedSettings, family: Family) -> float:
    if "rope.freq_base_swa" in header:
        return header.number("rope.freq_base_swa")
    return family.window_rope_theta


def _attention_scale(header: CheckedSettings, family: Family, layers: int, width_per_head: float) -> float:
    if header.get("attention.scale"):
        return header.number("attention.scale")
    return width_per_head**-0.5 if family.name == "gemma3" and layers == _GEMMA3_27B_LAYERS else 0.0


def _rope_scale(header: CheckedSettings) -> float:
    """Return the factor of the positions; linear scaling needs no type in the file."""
    kind = header.get("rope.scaling.type", "linear")
    keys = [key for key in ("rope.scaling.factor", "rope.scale_linear") if header.get(key)]  # the latter in older files
    factor = header.number(keys[0]) if keys else 1.0
    if kind not in ("none", "linear") or (kind == "none" and factor != 1):
        raise header.invalid(
            f"RoPE scaling that is not supported: {header.name('rope.scaling.type')} = {str(kind)[:80]}",
            hint="docs/reference/llm-runtime.md lists what loads",
        )
    return 1.0 / factor


def _rope_factors(header: CheckedSettings, file: GGUFFile, head_dim: int) -> tuple[float, ...]:
    tensor = file.tensors.get(ROPE_FACTORS)
    if tensor is None:
        return ()
    if tensor.type is not TensorType.F32 or tensor.shape != (head_dim // 2,):
        raise header.invalid(f"{ROPE_FACTORS} of shape {tensor.shape} in {tensor.type.name} for heads of {head_dim}")
    factors = np.frombuffer(file.data(tensor), dtype="<f4")
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise header.invalid(f"factors in {ROPE_FACTORS} that are not positive numbers")
    return tuple(factors.tolist())


def _family(file: GGUFFile) -> Family:
    """Return the family. Raises InvalidModel if the file is no complete model of a supported architecture."""
    metadata, name = file.metadata, file.path.name
    kind, parts = metadata.get("general.type", "model"), metadata.get("split.count", 1)
    if kind != "model":
        raise InvalidModel(f"{name} is of the type {kind!r}, not a model", hint="Choose the file of the model itself")
    architecture = metadata.get("general.architecture")
    family = ARCHITECTURES.get(str(architecture))
    if family is None:
        raise InvalidModel(
            f"{name} is of the architecture {architecture!r}",
            hint=f"This runtime serves: {', '.join(ARCHITECTURES)}",
        )
    if parts not in (0, 1):
        raise InvalidModel(f"{name} is one of {parts} parts of a model", hint="Merge them into one file")
    return family


def _check_variant(file: GGUFFile) -> None:
    """Reject settings that would change the answers and are not computed here."""
    prefix = f"{file.metadata['general.architecture']}."
    header = {key.removeprefix(prefix): value for key, value in file.metadata.items() if key.startswith(prefix)}
    changing = [
        f"{prefix}{key} = {str(value)[:80]}"
        for key, value in header.items()
        if key not in _READ | _ALWAYS_WITHOUT_EFFECT and not _is_one_of(value, _NO_EFFECT.get(key, ()))
    ]
    changing += [name for name in file.tensors if name.startswith("rope_") and name != ROPE_FACTORS]
    if changing:
        feature = "RoPE scaling" if "rope" in changing[0] else "a variant of the architecture"
        raise InvalidModel(
            f"{file.path.name} uses {feature} that is not supported: {', '.join(changing[:3])}",
            hint="docs/reference/llm-runtime.md lists what loads",
        )


def _is_one_of(value: object, values: tuple[object, ...]) -> bool:
    """Whether the value is one of these; 1 is not true."""
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values)
