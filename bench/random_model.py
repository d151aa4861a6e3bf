"""A GGUF file of 1.07 billion random parameters in Q4_1 with the example's vocabulary, made once in `.cache/models`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import quantize

ROOT = Path(__file__).parent.parent
WIDTH, FFN, LAYERS, HEADS, KV_HEADS, CONTEXT = 2048, 8192, 16, 32, 8, 2048
HEAD = WIDTH // HEADS
ARCHITECTURE = "llama"
NAME = "random-1b.Q4_1.gguf"
_TYPE = gguf.GGMLQuantizationType.Q4_1


def random_model(vocabulary: Path) -> Path:
    """Return the file; the vocabulary is that of another GGUF file of the architecture llama.

    Every layer has the same weights: computing them differs in nothing from others, and packing does not compare them.
    """
    path = ROOT / ".cache/models" / NAME
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    reader = gguf.GGUFReader(vocabulary)
    writer = gguf.GGUFWriter(partial, ARCHITECTURE)
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(reader.fields["tokenizer.ggml.tokens"].data))
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            _copy(writer, name, field)
    random = np.random.default_rng(7)
    _add(writer, random, "token_embd.weight", len(reader.fields["tokenizer.ggml.tokens"].data), WIDTH)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, dtype=np.float32))
    shapes = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (KV_HEADS * HEAD, WIDTH),
        "attn_v": (KV_HEADS * HEAD, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (FFN, WIDTH),
        "ffn_up": (FFN, WIDTH),
        "ffn_down": (WIDTH, FFN),
    }
    layer = {name: _random(random, *shape) for name, shape in shapes.items()}
    for index in range(LAYERS):
        for name, content in layer.items():
            writer.add_tensor(f"blk.{index}.{name}.weight", content, raw_dtype=_TYPE)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{index}.{name}.weight", np.ones(WIDTH, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)
    return path


def _copy(writer: gguf.GGUFWriter, name: str, field: gguf.ReaderField) -> None:
    kind, value = field.types[0], field.contents()
    if kind is gguf.GGUFValueType.ARRAY:
        writer.add_array(name, value)
    else:
        writer.add_key_value(name, value, kind)


def _add(writer: gguf.GGUFWriter, random: np.random.Generator, name: str, rows: int, cols: int) -> None:
    writer.add_tensor(name, _random(random, rows, cols), raw_dtype=_TYPE)


def _random(random: np.random.Generator, rows: int, cols: int) -> Any:
    return quantize(random.standard_normal((rows, cols), dtype=np.float32) * 0.02, _TYPE)


if __name__ == "__main__":
    print(random_model(Path(sys.argv[1])))
