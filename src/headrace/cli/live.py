"""The live view of `headrace up`: a table that is redrawn for a person, plain lines for a file."""

from __future__ import annotations

import re
import shutil
import sys
import threading
import time

from headrace.cli import output
from headrace.cli.client import ApiClient
from headrace.errors import HeadraceError
from headrace.kinds.columns import Object, condition
from headrace.kinds.registry import KINDS

RETRY_SECONDS = 0.5
_LEFT_OUT = ("URL", "RUNTIME", "AGE")
"""For room; and an age stands still in a table that is drawn only when something changes."""
_LINES_AROUND = 2
"""Of a table that is too high: the line that says so, and the cursor's own below it."""


class LiveView:
    """Follows the instance's ModelDeployments in a thread of its own, as any client would, until the process ends."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._objects: dict[str, Object] = {}
        self._drawn: list[str] = []
        self._said: dict[str, str] = {}
        self._paused = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="live", daemon=True)

    def start(self) -> None:
        """Begin to show."""
        self._thread.start()

    def pause(self) -> None:
        """Show nothing any more: something else is being printed."""
        self._paused.set()

    def _follow(self) -> None:
        while not self._paused.is_set():
            try:
                for change in self._client.watch(KINDS["ModelDeployment"], None):
                    self._show(change["type"], change["object"])
            except (HeadraceError, OSError, ValueError):
                time.sleep(RETRY_SECONDS)  # it is stopping, or we were too slow for the watch

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
            self._say(key, change, obj)

    def _redraw(self) -> None:
        columns = output.columns_of(KINDS["ModelDeployment"], wide=True, all_namespaces=False)
        columns = [column for column in columns if column.title not in _LEFT_OUT]
        lines = _fitted(output.table(columns, (self._objects[key] for key in sorted(self._objects))))
        if lines == self._drawn:
            return  # what changed is not to be seen, such as the percent of a message that is clipped
        up = f"\033[{len(self._drawn)}A\033[J" if self._drawn else ""
        sys.stdout.write(up + "\n".join(lines) + "\n")
        sys.stdout.flush()
        self._drawn = lines

    def _say(self, key: str, change: str, obj: Object) -> None:
        ready = condition(obj, "Ready")
        text = "deleted" if change == "DELETED" else f"{ready.get('reason', 'Pending')}: {ready.get('message', '')}"
        step = re.sub(r"\d+%.*", "", text)  # a line for each percent would be noise in a file
        if self._said.get(key) != step:
            self._said[key] = step
            print(f"{key}  {text}", flush=True)


def _fitted(lines: list[str]) -> list[str]:
    """Return the lines as the terminal can hold them: what wraps or scrolls away could not be drawn over."""
    size = shutil.get_terminal_size()
    if len(lines) >= size.lines:
        shown = max(1, size.lines - _LINES_AROUND)
        lines = [*lines[:shown], f"… {len(lines) - shown} more: see `headrace get mdep -A`"]
    return [output.clip(line, size.columns) for line in lines]
