"""One request's way from tokens to text: decoding, stop strings, and why it ended.

Special tokens are no text of the answer unless it is requested, but stop strings see them: `<|im_end|>` is what a
person knows who wants to stop there. So a stop string is searched for twice, with special tokens spelled out and in the
text that the client gets. A token that ends the answer is never text.

With cursors, text is released in whole tokens only. The text that the client has is then always that of a number of
tokens, the cursor, from which another replica can continue without repeating or losing a character. Without cursors,
text is released as soon as it cannot become a stop string any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

from headrace.serving.engine import Delta, FinishReason, StopConditions, TokenLogprob
from headrace_models.tokenizer import ModelTokenizer


@dataclass(frozen=True, slots=True)
class _Boundary:
    """A place in the text, special tokens spelled out, where the first `tokens` tokens end."""

    place: int
    tokens: int


@dataclass(frozen=True, slots=True, order=True)
class _Match:
    """Where a stop string is in the held text."""

    start: int
    end: int


class Answer:
    """Turns a request's sampled tokens into deltas. Text that may be the beginning of a stop string is held back."""

    def __init__(
        self, tokenizer: ModelTokenizer, stop: StopConditions, *, cursors: bool = False, special_tokens: bool = False
    ) -> None:
        self.ends = stop.token_ids | (frozenset() if stop.ignore_eos else tokenizer.ends)
        """Tokens that end the answer, but not within the first `min_tokens`: the sampler excludes them there."""
        self.prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
        """For the first delta, to be set before it."""
        self.cached_tokens = 0
        """As above."""
        self._stream = tokenizer.stream()
        self._conditions = stop
        self._special = tokenizer.special
        self._special_tokens = special_tokens
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
        self._resumed = 0
        """Tokens whose text the client has from another answer."""
        self._decoded = 0
        """Tokens before the incomplete character, if there is one at the end."""
        self._cursor = 0

    def resume(self, tokens: Sequence[int]) -> None:
        """Begin after tokens whose text the client has, as it has that of a cursor."""
        for token in tokens:
            self._count += 1
            self._decode(token)
            self._release(len(self._held))
        self._cursor = self._resumed = self._count
        self._boundaries.clear()

    def add(self, token: int, *, room: int, logprob: TokenLogprob | None = None, complete: bool = False) -> Delta:
        """Return what the token adds. `room`: tokens that still fit into the model after it.

        `complete`: whether nothing can follow the token under the request's constraint: it then ends the answer.
        """
        self._count += 1
        text, reason = self._advance(token, room, complete=complete)
        cursor = None
        if self._cursors:
            cursor = self._cursor if reason is None else self._count
        first = self._count == self._resumed + 1
        return Delta(
            text,
            (token,),
            reason,
            cursor,
            logprobs=() if logprob is None else (logprob,),
            prompt_logprobs=self.prompt_logprobs if first else (),
            cached_tokens=self.cached_tokens if first else 0,
        )

    def _advance(self, token: int, room: int, *, complete: bool) -> tuple[str, FinishReason | None]:
        """Return the text that the newest token releases, and why it ends the answer, if it does."""
        stoppable = self._count > self._conditions.min_tokens
        if stoppable and token in self.ends:
            return self._release(len(self._held)) + self._stream.finish(), FinishReason.STOP
        self._decode(token)
        if stoppable and (match := self._stop()):
            return self._release(match.end if self._conditions.include_string else match.start), FinishReason.STOP
        if complete or self._count >= self._conditions.max_tokens or room <= 0:
            reason = FinishReason.STOP if complete else FinishReason.LENGTH
            return self._release(len(self._held)) + self._stream.finish(), reason
        safe = self._safe() if stoppable else len(self._held)
        return self._release_tokens(safe) if self._cursors else self._release(safe), None

    def _decode(self, token: int) -> None:
        text = self._stream.step(token)
        self._hold(text, shown=True)
        self._hold(self._special.get(token, ""), shown=self._special_tokens)
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

    def _release_tokens(self, safe: int) -> str:
        """Release the tokens whose text ends at `safe` or before."""
        end, safe = 0, self._released + safe
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

    def _stop(self) -> _Match | None:
        """Return the stop string in the held text that begins first."""
        if not self._conditions.strings:
            return None
        found = [
            _Match(places[at], places[at + len(stop)])
            for text, places in self._views()
            for stop in self._conditions.strings
            if (at := text.find(stop)) >= 0
        ]
        return min(found, default=None)

    def _safe(self) -> int:
        """Return where the held text begins that may still become a stop string."""
        if not self._conditions.strings:
            return len(self._held)
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
