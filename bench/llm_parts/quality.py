"""Quality of the quantised path: logits and perplexity against float32 on the dequantised weights, by transformers."""

from __future__ import annotations

import torch
from bars import Bar
from llm_parts.setting import THREADS, Setting
from llm_runtime.llm_reference import reference_model
from models.logit_quality import TEXT, perplexity, relative_error, rms
from models.native_models import logits_of

from headrace_llm.loading import DType, load_decoder
from headrace_models.decoder import Floats
from headrace_models.model_file import ModelFile
from headrace_models.tokenizer import ModelTokenizer

RMS = 0.005
"""Bound of the logits' error, root mean square; activations of 8 bits, as in llama.cpp, give 0.39."""
PERPLEXITY_RATIO = 1.01
FLOAT32_RMS = 1e-3
"""Bound of the path that computes in float32: another order of additions."""


def measure(setting: Setting) -> list[Bar]:
    """Return the bars."""
    file = ModelFile.open(setting.file)
    tokens = list(ModelTokenizer(file).encode(TEXT))
    with torch.inference_mode():
        exact = reference_model(setting.file)(torch.tensor([tokens])).logits[0].numpy()
    bars = []
    for dtype, bound in ((DType.AUTO, RMS), (DType.FLOAT32, FLOAT32_RMS)):
        decoder = load_decoder(file, dtype=dtype, threads=THREADS, progress=lambda *_: None)
        ours = logits_of(decoder, tokens, block_tokens=len(tokens))
        decoder.close()
        name = "quality" if dtype is DType.AUTO else "quality-float32"
        ratio = perplexity(tokens, ours) / perplexity(tokens, exact)
        _describe(name, tokens, ours, exact)
        bars += [
            Bar(f"{name}-logits-rms", rms(ours - exact), bound, ""),
            Bar(f"{name}-perplexity-of-float32", ratio, PERPLEXITY_RATIO, "x"),
        ]
    return bars


def _describe(name: str, tokens: list[int], ours: Floats, exact: Floats) -> None:
    same = float((ours.argmax(1) == exact.argmax(1)).mean())
    print(
        f"{name}: {len(tokens)} tokens, error of logits {rms(ours - exact):.2e}, relative"
        f" {relative_error(ours, exact):.1e}, perplexity {perplexity(tokens, ours):.4f},"
        f" of float32 {perplexity(tokens, exact):.4f},"
        f" the same most likely token at {same:.1%}",
        flush=True,
    )
