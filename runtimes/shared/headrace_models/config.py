"""The shape of a model of the architecture llama, read from GGUF metadata.

Settings in the header that this runtime does not implement are rejected by name, by a list of the known ones, so that a
file that loads gives correct answers. A list of rejected settings would be outdated by the next converter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from headrace.errors import InvalidModel
from headrace_models.gguf import GGUFFile

ARCHITECTURES = ("llama",)
MAX_VALUE = 1e9
"""Limit of any count and of RoPE's base: far above any model; detects a corrupt file."""

_READ = frozenset(
    {
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.layer_norm_rms_epsilon",
        "attention.value_length",
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "rope.dimension_count",
        "rope.freq_base",
        "vocab_size",
    }
)
"""Keys of the architecture that `DecoderConfig.of` reads."""
_NO_EFFECT: Mapping[str, tuple[object, ...]] = {
    "rope.scaling.type": ("none", "linear"),  # linear: by the factor, which has its own key, with or without a type
    "rope.scaling.factor": (0, 1),
    "rope.scale_linear": (0, 1),  # the factor's name in older files
    "rope.scaling.attn_factor": (1,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.logit_softcapping": (0,),
    "attention.max_alibi_bias": (0,),
    "attn_logit_softcapping": (0,),
    "embedding_scale": (1,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "final_logit_softcapping": (0,),
    "logit_scale": (1,),
    "residual_scale": (1,),
    "tensor_data_layout": ("Meta AI original pth",),  # rows of queries and keys in pairs, as in every llama file
    "use_parallel_residual": (False,),
}
"""Other keys, each with the values that do not change the answer."""
_ALWAYS_WITHOUT_EFFECT = frozenset({"rope.scaling.finetuned", "rope.scaling.original_context_length"})
"""Keys that only describe a scaling with its own key."""


class Activation(StrEnum):
    """The function of the gate in the feed-forward block."""

    SILU = "silu"
    GELU_TANH = "gelu-tanh"


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

    @property
    def score_factor(self) -> float:
        """Return the factor of the attention scores."""
        return self.attention_scale or self.head_dim**-0.5

    def window(self, layer: int) -> int:
        """Return how many positions a query of this layer attends to; 0: all."""
        return self.windows[layer] if self.windows else 0

    @classmethod
    def of(cls, file: GGUFFile) -> DecoderConfig:
        """Return the configuration. Raises InvalidModel: for the architecture first, then encodings, then the rest.

        That order is a person's: whether a model can be served at all comes before how it has to be prepared.
        """
        _check_kind(file)
        tensors = file.tensors
        _check_variant(file)
        header = _Header(file)
        heads, width = header.count("attention.head_count"), header.count("embedding_length")
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
            raise header.invalid(
                f"{rows} rows of embedding for {header.name('vocab_size')} = {header.get('vocab_size')}"
            )
        return cls(
            family="llama",
            layers=header.count("block_count"),
            width=width,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            ffn_width=header.count("feed_forward_length"),
            vocabulary=rows,
            context=header.count("context_length"),
            rope_theta=header.number("rope.freq_base", 10000.0),
            norm_epsilon=header.number("attention.layer_norm_rms_epsilon"),
            tied="output.weight" not in tensors,
        )


class _Header:
    """The keys of the file's architecture, each checked as it is read."""

    def __init__(self, file: GGUFFile) -> None:
        self._file = file
        self._architecture = file.metadata["general.architecture"]

    def __contains__(self, key: str) -> bool:
        return self.name(key) in self._file.metadata

    def get(self, key: str, default: Any = None) -> Any:
        """Return the key's value, unchecked."""
        return self._file.metadata.get(self.name(key), default)

    def name(self, key: str) -> str:
        """Return the key as spelled in the file."""
        return f"{self._architecture}.{key}"

    def number(self, key: str, default: float | None = None) -> float:
        """Return a positive number. Raises InvalidModel when there is none."""
        found = self.get(key, default)
        if found is None:
            raise self.invalid(f"no {self.name(key)}")
        if not isinstance(found, int | float) or isinstance(found, bool) or not 0 < found < MAX_VALUE:
            raise self.invalid(f"{str(found)[:80]} as {self.name(key)}")
        return found

    def count(self, key: str, default: int | None = None) -> int:
        """Return a positive whole number. Raises InvalidModel when there is none."""
        found = self.number(key, default)
        if not isinstance(found, int):
            raise self.invalid(f"{found!r} as {self.name(key)}, which is no whole number")
        return found

    def invalid(self, what: str, *, hint: str = "Convert the model again") -> InvalidModel:
        """Return the error of a file; `has` describes its fault."""
        return InvalidModel(f"{self._file.path.name} has {what}", hint=hint)


def _check_kind(file: GGUFFile) -> None:
    """Reject a file that is not a complete model of a supported architecture."""
    metadata, name = file.metadata, file.path.name
    kind, parts = metadata.get("general.type", "model"), metadata.get("split.count", 1)
    if kind != "model":
        raise InvalidModel(f"{name} is of the type {kind!r}, not a model", hint="Choose the file of the model itself")
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise InvalidModel(
            f"{name} is of the architecture {architecture!r}",
            hint=f"This runtime serves: {', '.join(ARCHITECTURES)}",
        )
    if parts not in (0, 1):
        raise InvalidModel(f"{name} is one of {parts} parts of a model", hint="Merge them into one file")


def _check_variant(file: GGUFFile) -> None:
    """Reject settings that would change the answers and are not computed here."""
    prefix = f"{file.metadata['general.architecture']}."
    header = {key.removeprefix(prefix): value for key, value in file.metadata.items() if key.startswith(prefix)}
    changing = [
        f"{prefix}{key} = {str(value)[:80]}"
        for key, value in header.items()
        if key not in _READ | _ALWAYS_WITHOUT_EFFECT and not _is_one_of(value, _NO_EFFECT.get(key, ()))
    ]
    changing += [name for name in file.tensors if name.startswith("rope_")]
    if changing:
        feature = "RoPE scaling" if "rope" in changing[0] else "a variant of the architecture"
        raise InvalidModel(
            f"{file.path.name} uses {feature} that is not supported: {', '.join(changing[:3])}",
            hint="docs/reference/llm-runtime.md lists what loads",
        )


def _is_one_of(value: object, values: tuple[object, ...]) -> bool:
    """Whether the value is one of these; 1 is not true."""
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values)
