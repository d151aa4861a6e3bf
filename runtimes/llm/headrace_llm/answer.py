"""One request's way from tokens to text: decoding, stop strings, and why it ended."""

from __future__ import annotations

from headrace.serving.engine import Delta, FinishReason, Sampling
from headrace_llm.tokenizer import ModelTokenizer


class Answer:
    """Turns a request's sampled tokens into deltas. Text that may be the beginning of a stop string is held back."""

    def __init__(self, tokenizer: ModelTokenizer, sampling: Sampling) -> None:
        self._stream = tokenizer.stream()
        self._sampling = sampling
        self._ends = tokenizer.ends
        self._held = ""
        self._count = 0

    def add(self, token: int, *, room: int) -> Delta:
        """Return what the token adds. `room`: tokens that still fit into the model after it."""
        self._count += 1
        if token in self._ends and not self._sampling.ignore_eos:
            return Delta(self._held + self._stream.finish(), (token,), FinishReason.STOP)
        self._held += self._stream.step(token)
        found = [at for at in (self._held.find(stop) for stop in self._sampling.stop) if at >= 0]
        if found:
            return Delta(self._held[: min(found)], (token,), FinishReason.STOP)
        if self._count >= self._sampling.max_tokens or room <= 0:
            return Delta(self._held + self._stream.finish(), (token,), FinishReason.LENGTH)
        safe = len(self._held) - self._risky()
        text, self._held = self._held[:safe], self._held[safe:]
        return Delta(text, (token,))

    def _risky(self) -> int:
        """Return the length of the longest end of the held text that begins a stop string."""
        longest = 0
        for stop in self._sampling.stop:
            for length in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if stop.startswith(self._held[-length:]):
                    longest = length
                    break
        return longest
