"""Lines that tell a person what a slow step does, on standard error."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

EVERY_SECONDS = 10.0
"""Between two lines of one step."""


def say(text: str) -> None:
    """Write a line."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(what: str, state: Callable[[], str] | None = None) -> Iterator[None]:
    """Say that a step begins, what its state is while it lasts, and how long it took."""
    started, ended = time.monotonic(), threading.Event()

    def tell() -> None:
        while not ended.wait(EVERY_SECONDS):
            detail = "" if state is None else f": {state()}"
            say(f"  {what}: {time.monotonic() - started:.0f} s{detail}")

    say(f"{what} …")
    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    try:
        yield
    finally:
        ended.set()
        telling.join()
    say(f"{what}: done in {time.monotonic() - started:.0f} s")
