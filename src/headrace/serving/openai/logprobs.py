"""Log probabilities in OpenAI's two formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from headrace.serving.engine import TokenLogprob

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""In the text of a token that is only a part of a character."""
LEAST = -9999.0
"""In place of minus infinity, which JSON has not; vLLM's number."""
TokenText = Callable[[int], str]


def chat_logprobs(entries: Sequence[TokenLogprob], text: TokenText) -> dict[str, Any]:
    """Return the log probabilities of a choice of chat."""
    content = [
        {
            **_entry(text(each.token), each.logprob),
            "top_logprobs": [_entry(text(token), logprob) for token, logprob in each.top],
        }
        for each in entries
    ]
    return {"content": content, "refusal": None}


def _entry(token: str, logprob: float) -> dict[str, Any]:
    known = None if INCOMPLETE in token else list(token.encode(errors="surrogatepass"))
    return {"token": token, "logprob": max(logprob, LEAST), "bytes": known}


def text_logprobs(
    entries: Sequence[TokenLogprob | None], tokens: Sequence[int], text: TokenText, offset: int
) -> dict[str, Any]:
    """Return the log probabilities of a choice of plain completions.

    `tokens` are the entries' tokens; an entry is None for the first token of a prompt, which follows nothing. `offset`
    is the place of the first token's text in the choice's.

    Of tokens with the same text `top_logprobs` has the most likely one.
    """
    texts = [text(token) for token in tokens]
    tops: list[dict[str, float] | None] = []
    for each, own in zip(entries, texts, strict=True):
        if each is None:
            tops.append(None)
            continue
        top: dict[str, float] = {}
        for token, logprob in each.top:
            top.setdefault(text(token), max(logprob, LEAST))
        top.setdefault(own, max(each.logprob, LEAST))
        tops.append(top)
    offsets = []
    for each_text in texts:
        offsets.append(offset)
        offset += len(each_text)
    return {
        "tokens": texts,
        "token_logprobs": [None if each is None else max(each.logprob, LEAST) for each in entries],
        "top_logprobs": tops,
        "text_offset": offsets,
    }
