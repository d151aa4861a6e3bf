"""Progress of slow steps, printed to standard error."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

EVERY_SECONDS = 10.0
"""Interval between two lines of a step."""


def say(text: str) -> None:
    """Print a line."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(what: str, state: Callable[[], str] | None = None) -> Iterator[None]:
    """Print the start of a step, its state at intervals, and its duration."""
    started, ended = time.monotonic(), threading.Event()

    def report() -> None:
        while not ended.wait(EVERY_SECONDS):
            detail = "" if state is None else f": {state()}"
            say(f"  {what}: {time.monotonic() - started:.0f} s{detail}")

    say(f"{what} …")
    reporting = threading.Thread(target=report, daemon=True)
    reporting.start()
    try:
        yield
    finally:
        ended.set()
        reporting.join()
    say(f"{what}: done in {time.monotonic() - started:.0f} s")
