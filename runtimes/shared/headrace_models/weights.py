"""A model's weights as they are stored, in one form for every format: what decoders load.

Tensors have the names of llama.cpp's GGUF files (`blk.0.attn_q.weight`). Their bytes are views of the mapped file,
still encoded: a decoder keeps, repacks or decodes them. No torch.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace.errors import InvalidModel
from headrace_models.config import DecoderConfig
from headrace_models.encodings import TensorType, row_bytes
from headrace_models.experts import ExpertsConfig

_EXPERT = re.compile(r"blk\.\d+\.ffn_(?:gate|up|down)\.\d+\.weight")


@dataclass(frozen=True, slots=True)
class RawTensor:
    """One tensor as stored."""

    name: str
    shape: tuple[int, ...]
    """Outermost first, as in numpy."""
    type: TensorType
    data: memoryview
    """The encoded rows, in their stored order. The address need not be aligned."""
    row_order: NDArray[np.int32] | None = None
    """Row i of the weight is the stored row `row_order[i]`; None: they are in order. See `unpaired_order`."""

    def rows(self) -> NDArray[np.uint8]:
        """Return the encoded rows in their right order: [rows, bytes per row]. A view, unless there is a `row_order`.

        A vector is one row; with a `row_order`, its elements are the rows.
        """
        width = self.shape[-1] if len(self.shape) > 1 or self.row_order is None else 1
        stored = np.frombuffer(self.data, dtype=np.uint8).reshape(-1, row_bytes(self.type, width))
        return stored if self.row_order is None else stored[self.row_order]


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """All tensors of a model: exactly those that `tensor_shapes` names. Made by `checked`."""

    path: Path
    """The file or directory, for messages."""
    config: DecoderConfig
    tensors: Mapping[str, RawTensor]

    @classmethod
    def checked(cls, path: Path, config: DecoderConfig, tensors: Mapping[str, RawTensor]) -> ModelWeights:
        """Return the weights.

        Raises InvalidModel if a tensor is missing or of another shape, or if there are others: without its biases, for
        example, a model would produce wrong output.
        """
        needed = tensor_shapes(config)
        for name, shape in needed.items():
            tensor = tensors.get(name)
            if tensor is None or tensor.shape != shape:
                found = "missing" if tensor is None else f"of shape {tensor.shape}"
                raise InvalidModel(
                    f"{path.name}: tensor {name} is {found}, and its header needs {shape}",
                    hint="Convert the model again",
                )
        unknown = sorted(tensors.keys() - needed.keys())
        if unknown:
            raise InvalidModel(
                f"{path.name} has {len(unknown)} tensors that this runtime does not compute with: "
                f"{', '.join(unknown[:3])}",
                hint="It is of a variant of the architecture that is not served yet",
            )
        return cls(path, config, tensors)


def tensor_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of all tensors of a model."""
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    width, head = (config.width,), (config.head_dim,)
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": width,
        "attn_q.weight": (queries, config.width),
        "attn_k.weight": (keys, config.width),
        "attn_v.weight": (keys, config.width),
        "attn_output.weight": (config.width, queries),
        "ffn_norm.weight": width,
    }
    if config.qkv_bias:
        layer |= {"attn_q.bias": (queries,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
    if config.qk_norm:
        wide = config.wide_qk_norm
        layer |= {"attn_q_norm.weight": (queries,) if wide else head, "attn_k_norm.weight": (keys,) if wide else head}
    if config.post_norms:
        layer |= {"post_attention_norm.weight": width, "post_ffw_norm.weight": width}
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (config.vocabulary, config.width)}
    for index in range(config.layers):
        shapes |= {f"blk.{index}.{name}": shape for name, shape in layer.items()}
        experts = config.layer_experts(index)
        ffn = _ffn_shapes("", config.ffn_width, config.width) if experts is None else _experts_shapes(experts, config)
        shapes |= {f"blk.{index}.{name}": shape for name, shape in ffn.items()}
    shapes["output_norm.weight"] = width
    if not config.tied:
        shapes["output.weight"] = (config.vocabulary, config.width)
    return shapes


FFN_PARTS = ("gate", "up", "down")
"""The matrices of a feed-forward block."""


def expert_name(layer: int, part: str, expert: int) -> str:
    """Return the name of a matrix of an expert, as in the first GGUF files with experts, where each was a tensor."""
    return f"blk.{layer}.ffn_{part}.{expert}.weight"


def is_expert(name: str) -> bool:
    """Whether a tensor is a matrix of an expert, as `expert_name` names it."""
    return _EXPERT.fullmatch(name) is not None


def _experts_shapes(experts: ExpertsConfig, config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"ffn_gate_inp.weight": (experts.count, config.width)}
    if experts.score_bias:
        shapes["exp_probs_b.bias"] = (experts.count,)
    if experts.shared_gate:
        shapes["ffn_gate_inp_shexp.weight"] = (config.width,)
    if experts.shared_width:
        shapes |= _ffn_shapes("_shexp", experts.shared_width, config.width)
    for expert in range(experts.count):
        shapes |= _ffn_shapes(f".{expert}", experts.width, config.width)
    return shapes


def _ffn_shapes(suffix: str, ffn_width: int, width: int) -> dict[str, tuple[int, ...]]:
    return {
        f"ffn_{part}{suffix}.weight": (width, ffn_width) if part == "down" else (ffn_width, width) for part in FFN_PARTS
    }


def release_file_pages(tensors: Iterable[RawTensor]) -> None:
    """Drop the resident pages of the files that hold these tensors; a later access reads them again.

    Only for files that nothing has written to in memory, as readers map them.
    """
    areas = {id(area): area for tensor in tensors if isinstance(area := tensor.data.obj, mmap.mmap)}
    for area in areas.values():
        area.madvise(mmap.MADV_DONTNEED)


def unpaired_order(heads: int, rows: int) -> NDArray[np.int32]:
    """Return the row order that undoes the one of queries and keys in llama's GGUFs: [rows].

    These files rotate neighbouring rows (2 i, 2 i + 1) of a head; decoders rotate the rows (i, i + head_dim / 2).
    """
    return np.arange(rows, dtype=np.int32).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)
