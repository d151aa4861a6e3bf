"""The shape of a Llama-family model, read from GGUF metadata."""

from __future__ import annotations

import math
from dataclasses import dataclass

from headrace.errors import InvalidModel
from headrace_llm.gguf import GGUFFile

ARCHITECTURES = ("llama",)
MAX_VALUE = 1e9
"""Of any count, and of RoPE's base: far above any model, and a bound for a broken file."""


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """Sizes are counts, not bytes."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_width: int
    vocabulary: int
    context: int
    """Longest sequence that it was trained for, tokens."""
    rope_theta: float
    norm_epsilon: float

    @classmethod
    def of(cls, file: GGUFFile) -> LlamaConfig:
        """Return the configuration; raises InvalidModel for an architecture that we do not serve."""
        metadata = file.metadata
        architecture = metadata.get("general.architecture")
        if architecture not in ARCHITECTURES:
            raise InvalidModel(
                f"{file.path.name} is of the architecture {architecture!r}",
                hint=f"This runtime serves: {', '.join(ARCHITECTURES)}",
            )

        def value(key: str, default: float | None = None) -> float:
            found = metadata.get(f"{architecture}.{key}", default)
            if not isinstance(found, int | float) or not 0 < found < MAX_VALUE:
                why = "has no" if found is None else f"has {found!r} as"
                raise InvalidModel(f"{file.path.name} {why} {architecture}.{key}", hint="Convert the model again")
            return found

        def count(key: str, default: int | None = None) -> int:
            return math.ceil(value(key, default))

        heads, width = count("attention.head_count"), count("embedding_length")
        kv_heads, head_dim = count("attention.head_count_kv", heads), count("attention.key_length", width // heads)
        if heads % kv_heads or head_dim % 2:
            raise InvalidModel(f"{file.path.name} has {heads} heads, {kv_heads} for keys, of a width of {head_dim}")
        embedding = file.tensors.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2:  # noqa: PLR2004 - a matrix
            raise InvalidModel(f"{file.path.name} has no token embedding")
        if metadata.get(f"{architecture}.rope.scaling.type") not in (None, "none"):
            raise InvalidModel(f"{file.path.name} uses RoPE scaling", hint="This runtime does not serve it yet")
        if count("rope.dimension_count", head_dim) != head_dim:
            raise InvalidModel(
                f"{file.path.name} rotates a part of each head", hint="This runtime does not serve it yet"
            )
        return cls(
            layers=count("block_count"),
            width=width,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            ffn_width=count("feed_forward_length"),
            vocabulary=embedding.shape[0],
            context=count("context_length"),
            rope_theta=value("rope.freq_base", 10000.0),
            norm_epsilon=value("attention.layer_norm_rms_epsilon"),
        )
