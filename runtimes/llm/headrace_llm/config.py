"""The shape of a Llama-family model, read from GGUF metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headrace.errors import InvalidModel
from headrace_llm.gguf import GGUFFile

ARCHITECTURES = ("llama",)


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

        def value(key: str, default: Any = None) -> Any:
            found = metadata.get(f"{architecture}.{key}", default)
            if not isinstance(found, int | float):
                raise InvalidModel(f"{file.path.name} has no {architecture}.{key}", hint="Convert the model again")
            return found

        heads, width = int(value("attention.head_count")), int(value("embedding_length"))
        if not 0 < heads <= width:
            raise InvalidModel(f"{file.path.name} has {heads} heads for a width of {width}")
        embedding = file.tensors.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2:  # noqa: PLR2004 - a matrix
            raise InvalidModel(f"{file.path.name} has no token embedding")
        if metadata.get(f"{architecture}.rope.scaling.type") not in (None, "none"):
            raise InvalidModel(f"{file.path.name} uses RoPE scaling", hint="This runtime does not serve it yet")
        return cls(
            layers=int(value("block_count")),
            width=width,
            heads=heads,
            kv_heads=int(value("attention.head_count_kv", heads)),
            head_dim=int(value("attention.key_length", width // heads)),
            ffn_width=int(value("feed_forward_length")),
            vocabulary=embedding.shape[0],
            context=int(value("context_length")),
            rope_theta=float(value("rope.freq_base", 10000.0)),
            norm_epsilon=float(value("attention.layer_norm_rms_epsilon")),
        )
