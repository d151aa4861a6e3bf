"""One request's way from tokens to text: decoding, stop strings, and why it ended.

Special tokens are no text of the answer, but stop strings see them: `<|im_end|>` is what a person knows who wants to
stop there. So a stop string is searched for twice, with special tokens spelled out and in the text that the client
gets.

With cursors, text is released in whole tokens only. The text that the client has is then always that of a number of
tokens, the cursor, from which another replica can continue without repeating or losing a character. Without cursors,
text is released as soon as it cannot become a stop string any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

from headrace.serving.engine import Delta, FinishReason, StopConditions
from headrace_models.tokenizer import ModelTokenizer


@dataclass(frozen=True, slots=True)
class _Boundary:
    """A place in the text, special tokens spelled out, where the first `tokens` tokens end."""

    place: int
    tokens: int


class Answer:
    """Turns a request's sampled tokens into deltas. Text that may be the beginning of a stop string is held back."""

    def __init__(self, tokenizer: ModelTokenizer, stop: StopConditions, *, cursors: bool = False) -> None:
        self._stream = tokenizer.stream()
        self._conditions = stop
        self._special = tokenizer.special
        self._ends = stop.token_ids | (frozenset() if stop.ignore_eos else tokenizer.ends)
        self._held = ""
        """Text that is not released yet, special tokens spelled out."""
        self._shown: list[bool] = []
        """Which of its characters the client gets: those that are not of a special token."""
        self._cursors = cursors
        self._released = 0
        """Length of the text before `_held`: places are counted from the beginning of the answer."""
        self._boundaries: deque[_Boundary] = deque()
        """In `_held`, by place; none without cursors."""
        self._count = 0
        self._decoded = 0
        """Tokens before the incomplete character, if there is one at the end."""
        self._cursor = 0

    def add(self, token: int, *, room: int) -> Delta:
        """Return what the token adds. `room`: tokens that still fit into the model after it."""
        self._count += 1
        if token in self._ends:
            return self._last(len(self._held), (token,), FinishReason.STOP, rest=self._stream.finish())
        self._decode(token)
        end = self._stop()
        if end is not None:
            return self._last(end, (token,), FinishReason.STOP)
        if self._count >= self._conditions.max_tokens or room <= 0:
            return self._last(len(self._held), (token,), FinishReason.LENGTH, rest=self._stream.finish())
        if not self._cursors:
            return Delta(self._release(self._safe()), (token,))
        return Delta(self._release_tokens(), (token,), cursor=self._cursor)

    def _decode(self, token: int) -> None:
        text = self._stream.step(token)
        self._hold(text, shown=True)
        self._hold(self._special.get(token, ""), shown=False)
        if self._cursors:
            self._note_boundary(complete=bool(text) or (token in self._special and self._decoded == self._count - 1))

    def _note_boundary(self, *, complete: bool) -> None:
        """Note where the newest token ends; if a character is not complete, its tokens do not count yet."""
        if complete:
            self._decoded = self._count
        boundary = _Boundary(self._released + len(self._held), self._decoded)
        if self._boundaries and self._boundaries[-1].place == boundary.place:
            self._boundaries[-1] = boundary
        else:
            self._boundaries.append(boundary)

    def _last(self, end: int, token_ids: tuple[int, ...], reason: FinishReason, rest: str = "") -> Delta:
        """Return the delta that ends the answer: the held text up to `end`, and what the decoder has left."""
        return Delta(self._release(end) + rest, token_ids, reason, self._count if self._cursors else None)

    def _release_tokens(self) -> str:
        """Release the tokens that are in front of what may become a stop string."""
        end, safe = 0, self._released + self._safe()
        while self._boundaries and self._boundaries[0].place <= safe:
            boundary = self._boundaries.popleft()
            end, self._cursor = boundary.place - self._released, boundary.tokens
        return self._release(end)

    def _hold(self, text: str, *, shown: bool) -> None:
        self._held += text
        self._shown += [shown] * len(text)

    def _release(self, end: int) -> str:
        """Take the held text up to `end`, and return what the client gets of it."""
        text = "".join(compress(self._held[:end], self._shown))
        self._held, self._shown = self._held[end:], self._shown[end:]
        self._released += end
        return text

    def _stop(self) -> int | None:
        """Return where in the held text the first stop string begins."""
        found = [
            places[at]
            for text, places in self._views()
            for stop in self._conditions.strings
            if (at := text.find(stop)) >= 0
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
        for stop in self._conditions.strings:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if stop.startswith(text[-length:]):
                    longest = length
                    break
        return longest
