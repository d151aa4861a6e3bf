"""The live view of `headrace up`: a table that is redrawn on a terminal, lines in a file."""

from __future__ import annotations

import re
import shutil
import sys
import threading
import time

from headrace.api.vocabulary import MODEL_DEPLOYMENT
from headrace.cli import output
from headrace.cli.client import ApiClient
from headrace.errors import HeadraceError
from headrace.kinds.columns import Object, condition
from headrace.kinds.registry import KINDS, RESOURCE_KINDS

RETRY_SECONDS = 0.5
_RESERVED_LINES = 2
"""Lines below a table that is too high: the number of hidden rows, and the cursor's line."""


class LiveView:
    """Watches the instance's ModelDeployments in a thread until the process ends, and prints their states."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._objects: dict[str, Object] = {}
        self._drawn: list[str] = []
        self._printed: dict[str, str] = {}
        self._paused = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="live", daemon=True)

    def start(self) -> None:
        """Start the output."""
        self._thread.start()

    def pause(self) -> None:
        """Stop the output, because something else is printed."""
        self._paused.set()

    def _follow(self) -> None:
        while not self._paused.is_set():
            try:
                for change in self._client.watch(KINDS[MODEL_DEPLOYMENT], None):
                    self._show(change["type"], change["object"])
            except (HeadraceError, OSError, ValueError):
                time.sleep(RETRY_SECONDS)  # the instance is stopping, or the watch was closed because we were too slow

    def _show(self, change: str, obj: Object) -> None:
        metadata = obj["metadata"]
        key = f"{metadata['namespace']}/{metadata['name']}"
        if change == "DELETED":
            self._objects.pop(key, None)
        else:
            self._objects[key] = obj
        if self._paused.is_set():
            return
        if output.is_terminal():
            self._redraw()
        else:
            self._print(key, change, obj)

    def _redraw(self) -> None:
        columns = [column for column in RESOURCE_KINDS[MODEL_DEPLOYMENT].columns if column.live]
        lines = _fitted(output.table(columns, (self._objects[key] for key in sorted(self._objects))))
        if lines == self._drawn:
            return  # the change is not visible, such as the percentage in a message that is clipped
        up = f"\033[{len(self._drawn)}A\033[J" if self._drawn else ""
        sys.stdout.write(up + "\n".join(lines) + "\n")
        sys.stdout.flush()
        self._drawn = lines

    def _print(self, key: str, change: str, obj: Object) -> None:
        ready = condition(obj, "Ready")
        text = "deleted" if change == "DELETED" else f"{ready.get('reason', 'Pending')}: {ready.get('message', '')}"
        step = re.sub(r"\d+%.*", "", text)  # a line for each percent would be noise in a file
        if self._printed.get(key) != step:
            self._printed[key] = step
            print(f"{key}  {text}", flush=True)


def _fitted(lines: list[str]) -> list[str]:
    """Return the lines cut to the terminal's size, because wrapped or scrolled lines cannot be redrawn."""
    size = shutil.get_terminal_size()
    if len(lines) >= size.lines:
        shown = max(1, size.lines - _RESERVED_LINES)
        lines = [*lines[:shown], f"… {len(lines) - shown} more: see `headrace get mdep -A`"]
    return [output.clip(line, size.columns) for line in lines]
