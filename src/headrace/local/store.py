"""What survives `down` and a crash: the user's objects and their events, in one SQLite file.

Children are not in it: they are made again from the resources. Nothing written is lost when the process is killed.
What a user applied or deleted survives a power cut too (synchronous=FULL); a status or an event may lose its last
moment then (NORMAL), since the event loop must not wait for the disk each time that a condition changes.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from headrace.errors import CannotStart
from headrace.local.index import ObjectKey
from headrace.reconcile.world import Manifest

MAX_EVENTS = 1000
"""Kept; Kubernetes keeps an hour's, a laptop's user comes back the next day."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    kind TEXT, namespace TEXT, name TEXT, manifest TEXT NOT NULL, PRIMARY KEY (kind, namespace, name)
);
CREATE TABLE IF NOT EXISTS events (
    namespace TEXT, name TEXT, last TEXT NOT NULL, manifest TEXT NOT NULL, PRIMARY KEY (namespace, name)
);
"""


class Store:
    """The file. Used from one thread."""

    def __init__(self, path: Path) -> None:
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise CannotStart(f"cannot open {path}: {error}", hint="Is the disk full, or the file broken?") from error

    def objects(self) -> list[Manifest]:
        """Return every object."""
        return [json.loads(row[0]) for row in self._database.execute("SELECT manifest FROM objects")]

    def events(self) -> list[Manifest]:
        """Return every event, oldest first."""
        return [json.loads(row[0]) for row in self._database.execute("SELECT manifest FROM events ORDER BY last")]

    def put(self, manifest: Manifest) -> None:
        """Keep an object; it is on the disk on return."""
        self._flush_to_disk(always=True)
        self._put(manifest)

    def put_status(self, manifest: Manifest) -> None:
        """Keep an object of which only the status changed."""
        self._flush_to_disk(always=False)
        self._put(manifest)

    def remove(self, key: ObjectKey) -> None:
        """Forget an object; it is forgotten on the disk on return."""
        self._flush_to_disk(always=True)
        self._database.execute(
            "DELETE FROM objects WHERE kind = ? AND namespace = ? AND name = ?", (key.kind, key.namespace, key.name)
        )

    def put_event(self, event: Manifest) -> list[ObjectKey]:
        """Keep an event; return the keys of those that are too old to be kept beside it."""
        self._flush_to_disk(always=False)
        key = ObjectKey.of(event)
        row = (key.namespace, key.name, event["lastTimestamp"], json.dumps(event))
        self._database.execute("INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?)", row)
        old = self._database.execute(
            "SELECT namespace, name FROM events ORDER BY last DESC, rowid DESC LIMIT -1 OFFSET ?", (MAX_EVENTS,)
        ).fetchall()
        self._database.executemany("DELETE FROM events WHERE namespace = ? AND name = ?", old)
        return [ObjectKey(key.kind, namespace, name) for namespace, name in old]

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _put(self, manifest: Manifest) -> None:
        key = ObjectKey.of(manifest)
        row = (key.kind, key.namespace, key.name, json.dumps(manifest))
        self._database.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", row)

    def _flush_to_disk(self, *, always: bool) -> None:
        self._database.execute(f"PRAGMA synchronous={'FULL' if always else 'NORMAL'}")
