"""The mixture of experts that the checkout contains: small, documented in its header, and the same model everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from headrace_llm.loading import DType
from headrace_models.decoder import Batch, Decoder, Floats, Segment
from headrace_models.gguf import GGUFFile
from headrace_models.model_file import ModelFile
from headrace_models.native.packing import WeightType
from headrace_models.native_decoder import NativeDecoder
from headrace_models.tokenizer import ModelTokenizer
from headrace_models.torch_decoder import TorchDecoder
from headrace_moe.serving import CachedDecoders
from headrace_moe.train.checkpoint import hf_settings
from headrace_moe.train.recipe import Recipe, read_recipe

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples/models/headrace-moe-6x16.Q8_0.gguf"
TEXT = "import os\n\n\ndef main(arguments):\n    for name in arguments:\n        print(os.path.abspath(name))\n"


def logits(decoder: Decoder, tokens: list[int]) -> Floats:
    decoder.allocate_cache(8, 16)
    return decoder.step(Batch(tokens, [Segment(range(8), 0, len(tokens))], range(len(tokens)))).copy()


def test_file_when_opened_then_small_and_its_recipe_is_known() -> None:
    assert MODEL.stat().st_size <= 12_000_000
    report = json.loads(GGUFFile(MODEL).metadata["general.description"])
    recipe = Recipe.model_validate(report["recipe"])
    assert recipe == read_recipe(ROOT / "runtimes/moe/headrace_moe/train/recipes/small.yaml")
    assert set(report["held_out"]) == {"code", "manual", "verse"}


def test_file_when_computed_by_transformers_then_same_logits() -> None:
    file = ModelFile.open(MODEL)
    tokens = ModelTokenizer(file).encode(TEXT)
    recipe = Recipe.model_validate(json.loads(GGUFFile(MODEL).metadata["general.description"])["recipe"])
    model = AutoModelForCausalLM.from_pretrained(
        MODEL.parent, gguf_file=MODEL.name, config=Qwen3MoeConfig(**hf_settings(recipe.shape))
    )
    with torch.inference_mode():
        theirs = model(torch.tensor([tokens])).logits[0].numpy()
    ours = TorchDecoder(file.weights, threads=1, progress=lambda _: None)
    np.testing.assert_allclose(logits(ours, tokens), theirs, atol=1e-4, rtol=1e-4)


def test_file_when_cached_then_the_bits_of_all_resident() -> None:
    file = ModelFile.open(MODEL)
    tokens = ModelTokenizer(file).encode(TEXT)
    resident = NativeDecoder.load(file.weights, threads=1, progress=lambda _: None, weight_type=WeightType.STORED)
    expected = logits(resident, tokens)
    for percent in (1, 12, 50):
        opener = CachedDecoders(percent, "lfru", link=2)
        decoder = opener(file, dtype=DType.AUTO, threads=1, progress=lambda _stage, _percent: None)
        assert np.array_equal(logits(decoder, tokens), expected)
        assert decoder.counters()["headrace_moe_cache_misses"] > 0
        decoder.close()
