"""Record the routings of a model on texts: prompts in chunks, then each further token alone, as an answer would be."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from headrace_llm.loading import DType
from headrace_models.decoder import Batch, Segment
from headrace_models.model_file import ModelFile
from headrace_models.tokenizer import ModelTokenizer
from headrace_moe.cache.simulate import NAMES, simulate
from headrace_moe.cache.trace import Trace, TraceHeader, TraceRecorder
from headrace_moe.serving import CachedDecoders

log = logging.getLogger(__name__)
BLOCK_TOKENS = 16


def record(path: Path, texts: Sequence[str], *, prompt: int, tokens: int) -> Trace:
    """Return the trace of the first `tokens` tokens of each text, of which `prompt` are one chunk.

    The texts' own tokens are computed, not sampled ones, so that a trace depends on the model and the texts alone.
    """
    file = ModelFile.open(path)
    tokenizer, experts = ModelTokenizer(file), file.config.experts
    assert experts is not None or not texts
    header = TraceHeader(
        path.stem, file.config.layers, experts.count if experts else 0, experts.used if experts else 0, 0
    )
    recorder = TraceRecorder(header)
    opener = CachedDecoders(percent=100, policy="lru", recorder=recorder)
    decoder = opener(
        file, dtype=DType.AUTO, threads=len(os.sched_getaffinity(0)), progress=lambda _stage, _percent: None
    )
    blocks = range(-(-tokens // BLOCK_TOKENS))
    decoder.allocate_cache(len(blocks), BLOCK_TOKENS)
    for text in texts:
        ids = tokenizer.encode(text)[:tokens]
        first = ids[:prompt]
        decoder.step(Batch(first, [Segment(blocks, 0, len(first))], [len(first) - 1]))
        for at in range(len(first), len(ids)):
            decoder.step(Batch([ids[at]], [Segment(blocks, at, 1)], [0]))
    decoder.close()
    return recorder.trace()


def table(trace: Trace, percents: Sequence[float], link: int) -> str:
    """Return a table of hit ratios, by policy and share of experts in memory."""
    total = len({record.layer for record in trace}) * trace.header.experts
    lines = ["policy     " + "".join(f"{percent:>8g}%" for percent in percents)]
    for name in NAMES:
        ratios = [
            simulate(trace, slots=max(1, int(total * percent / 100)), policy=name, link=link).hit_ratio
            for percent in percents
        ]
        lines.append(f"{name:<11}" + "".join(f"{ratio:>9.3f}" for ratio in ratios))
    return "\n".join(lines)
