"""headrace's decoder without its engine and server: `run_headrace.py FILE THREADS`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from worker import CONTEXT, prompt, serve

from headrace_llm.loading import DType, load_decoder
from headrace_models.decoder import Batch, Decoder, Segment
from headrace_models.model_file import ModelFile

BLOCK_TOKENS = 16
BLOCKS = 1024


class Headrace:
    """The decoder over block tables, greedy."""

    def __init__(self, path: str, threads: int) -> None:
        self._decoder: Decoder = load_decoder(
            ModelFile.open(Path(path)), dtype=DType.AUTO, threads=threads, progress=lambda *_: None
        )
        self._decoder.allocate_cache(BLOCKS, BLOCK_TOKENS)
        self._salt = 0

    def decode(self, streams: int, steps: int, timed: Callable[[Callable[[], object]], float]) -> list[float]:
        width = -(-(CONTEXT + steps) // BLOCK_TOKENS)
        tables = [range(stream * width, (stream + 1) * width) for stream in range(streams)]
        tokens = [self._prefill(CONTEXT, table) for table in tables]

        def one(position: int) -> None:
            batch = Batch(tokens, [Segment(table, position, 1) for table in tables], range(streams))
            tokens[:] = self._decoder.step(batch).argmax(-1).tolist()

        return [timed(lambda step=step: one(CONTEXT + step)) for step in range(steps)]  # type: ignore[misc]  # a lambda's default

    def prefill(self, tokens: int, timed: Callable[[Callable[[], object]], float]) -> float:
        return timed(lambda: self._prefill(tokens, range(-(-tokens // BLOCK_TOKENS))))

    def _prefill(self, tokens: int, table: range) -> int:
        self._salt += 1
        batch = Batch(prompt(tokens, self._salt), [Segment(table, 0, tokens)], [tokens - 1])
        return int(self._decoder.step(batch).argmax())


if __name__ == "__main__":
    serve(lambda: Headrace(sys.argv[1], int(sys.argv[2])))
