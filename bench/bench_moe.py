"""Bench of the expert cache, on the mixture of experts that the checkout contains.

Texts are files of this Python's standard library, most of which the model was trained on, and of the checkout's
documentation, which it has not seen; docs/moe.md has hit ratios on held-out documents. Hit ratios are the simulator's,
which equal those of the live cache (tested). Times are CPU times of one thread, the best of several, all in one run.
"""

from __future__ import annotations

import argparse
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "examples/models/headrace-moe-6x16.Q8_0.gguf"

import numpy as np
from bars import bar, environment

from headrace_llm.loading import DType
from headrace_models.decoder import Batch, Decoder, Floats, Segment
from headrace_models.model_file import ModelFile
from headrace_models.native.packing import WeightType
from headrace_models.native_decoder import NativeDecoder
from headrace_models.tokenizer import ModelTokenizer
from headrace_moe.cache.simulate import LOOK_AHEAD, simulate
from headrace_moe.cache.trace import Trace
from headrace_moe.serving import CachedDecoders
from headrace_moe.tracing import record, table

PROMPT, TOKENS, BLOCK = 128, 384, 16
PERCENTS = (12.5, 25.0, 50.0)
REPEATS = 5


@dataclass(frozen=True)
class Run:
    """One text: logits of its last prompt token and of each further token, and CPU seconds of both parts."""

    logits: Floats
    prefill_seconds: float
    decode_seconds: float


def texts() -> list[str]:
    library = Path(sysconfig.get_path("stdlib"))
    code = [library / name for name in ("argparse.py", "difflib.py", "heapq.py", "tarfile.py")]
    prose = [ROOT / "docs/concepts.md", ROOT / "docs/architecture.md", ROOT / "docs/llm-engine.md"]
    return [path.read_text() for path in (*code, *prose)]


def run(decoder: Decoder, ids: Sequence[int]) -> Run:
    blocks = range(-(-len(ids) // BLOCK))
    start = time.process_time()
    rows = [decoder.step(Batch(ids[:PROMPT], [Segment(blocks, 0, PROMPT)], [PROMPT - 1])).copy()]
    middle = time.process_time()
    rows += [decoder.step(Batch([ids[at]], [Segment(blocks, at, 1)], [0])).copy() for at in range(PROMPT, len(ids))]
    return Run(np.concatenate(rows), middle - start, time.process_time() - middle)


def opened(file: ModelFile, percent: int | None, *, prefetch: int = 0) -> Decoder:
    if percent is None:
        decoder: Decoder = NativeDecoder.load(
            file.weights, threads=1, progress=lambda _: None, weight_type=WeightType.STORED
        )
    else:
        opener = CachedDecoders(percent, "lru-layer", prefetch)
        decoder = opener(file, dtype=DType.AUTO, threads=1, progress=lambda _stage, _percent: None)
    decoder.allocate_cache(-(-TOKENS // BLOCK), BLOCK)
    return decoder


def hit_ratios(trace: Trace) -> None:
    total = len({each.layer for each in trace}) * trace.header.experts
    print(table(trace, PERCENTS, link=1))
    for percent in PERCENTS:
        slots = int(total * percent / 100)
        ratios = {
            name: simulate(trace, slots=slots, policy=name).hit_ratio for name in ("lru-layer", LOOK_AHEAD, "belady")
        }
        gap = ratios["belady"] - ratios["lru-layer"]
        closed = 100 * (ratios[LOOK_AHEAD] - ratios["lru-layer"]) / gap
        bar(f"moe-gap-to-belady-closed-at-{percent:g}-percent", closed, 70, "%", at_least=True)
        counters = simulate(trace, slots=slots, policy=LOOK_AHEAD)
        wasted = 100 * counters.prefetch_wasted / (counters.misses + counters.prefetched)
        bar(f"moe-wasted-bytes-at-{percent:g}-percent", wasted, 30, "%")


def rates(file: ModelFile, ids: Sequence[int]) -> None:
    kinds = {"resident": (None, 0), "full": (100, 0), "lru": (25, 0), "look-ahead": (25, 1)}
    decoders = {name: opened(file, percent, prefetch=prefetch) for name, (percent, prefetch) in kinds.items()}
    best: dict[str, list[float]] = {name: [float("inf")] * 2 for name in kinds}
    logits: dict[str, Floats] = {}
    for _ in range(REPEATS):
        for name, decoder in decoders.items():
            found = run(decoder, ids)
            logits[name] = found.logits
            best[name] = [
                min(pair) for pair in zip(best[name], (found.prefill_seconds, found.decode_seconds), strict=True)
            ]
    differing = sum(not np.array_equal(each, logits["resident"]) for each in logits.values())
    bar("moe-caches-that-change-a-logit", differing, 0, "")
    for name, (prefill, decoding) in best.items():
        token = decoding * 1e3 / (TOKENS - PROMPT)
        print(f"{name}: prefill {prefill * 1e3:.1f} ms, decoding {token:.3f} ms a token (CPU time)")
    slower = 100 * (best["full"][0] / best["resident"][0] - 1)
    bar("moe-prefill-slower-than-without-cache", slower, 2, "%")
    for decoder in decoders.values():
        decoder.close()


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    environment()
    file = ModelFile.open(MODEL)
    trace = record(MODEL, texts(), prompt=PROMPT, tokens=TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        trace.write(Path(folder) / "trace.npz")
        trace = Trace.read(Path(folder) / "trace.npz")
    rates(file, ModelTokenizer(file).encode(texts()[0])[:TOKENS])
    hit_ratios(trace)
    return 0


if __name__ == "__main__":
    sys.exit(main())
