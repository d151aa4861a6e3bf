"""One request's way from tokens to text: decoding, stop strings, and why it ended.

Special tokens are no text of the answer, but stop strings see them: `<|im_end|>` is what a person knows who asks to
stop there. So a stop string is looked for twice, with special tokens spelled out and in the text as the client gets it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress

from headrace.serving.engine import Delta, FinishReason, Sampling
from headrace_llm.tokenizer import ModelTokenizer


class Answer:
    """Turns a request's sampled tokens into deltas. Text that may be the beginning of a stop string is held back."""

    def __init__(self, tokenizer: ModelTokenizer, sampling: Sampling) -> None:
        self._stream = tokenizer.stream()
        self._sampling = sampling
        self._special = tokenizer.special
        self._ends = sampling.stop_token_ids | (frozenset() if sampling.ignore_eos else tokenizer.ends)
        self._held = ""
        """Text that was not told yet, special tokens spelled out."""
        self._shown: list[bool] = []
        """Which of its characters the client gets: those that are not of a special token."""
        self._count = 0

    def add(self, token: int, *, room: int) -> Delta:
        """Return what the token adds. `room`: tokens that still fit into the model after it."""
        self._count += 1
        if token in self._ends:
            return Delta(self._tell(len(self._held)) + self._stream.finish(), (token,), FinishReason.STOP)
        self._hold(self._stream.step(token), shown=True)
        self._hold(self._special.get(token, ""), shown=False)
        end = self._stop()
        if end is not None:
            return Delta(self._tell(end), (token,), FinishReason.STOP)
        if self._count >= self._sampling.max_tokens or room <= 0:
            return Delta(self._tell(len(self._held)) + self._stream.finish(), (token,), FinishReason.LENGTH)
        return Delta(self._tell(self._safe()), (token,))

    def _hold(self, text: str, *, shown: bool) -> None:
        self._held += text
        self._shown += [shown] * len(text)

    def _tell(self, end: int) -> str:
        """Take the held text up to `end`, and return what the client gets of it."""
        text = "".join(compress(self._held[:end], self._shown))
        self._held, self._shown = self._held[end:], self._shown[end:]
        return text

    def _stop(self) -> int | None:
        """Return where in the held text the first stop string begins."""
        found = [
            places[at] for text, places in self._views() for stop in self._sampling.stop if (at := text.find(stop)) >= 0
        ]
        return min(found, default=None)

    def _safe(self) -> int:
        """Return where the held text begins that may still become a stop string."""
        return min(places[len(text) - self._risky(text)] for text, places in self._views())

    def _views(self) -> Iterator[tuple[str, Sequence[int]]]:
        """Yield the held text with special tokens and without, each with the places of its characters and its end."""
        end = len(self._held)
        yield self._held, range(end + 1)
        if not all(self._shown):
            yield "".join(compress(self._held, self._shown)), [*compress(range(end), self._shown), end]

    def _risky(self, text: str) -> int:
        """Return the length of the longest end of the text that begins a stop string."""
        longest = 0
        for stop in self._sampling.stop:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if stop.startswith(text[-length:]):
                    longest = length
                    break
        return longest
