"""Stores the user's objects and their events in one SQLite file, across `headrace down` and crashes.

Children are not stored: they are made again from the resources. Nothing is lost when the process is killed. What a user
applied or deleted also survives a power failure (synchronous=FULL). The newest statuses and events may be lost then
(NORMAL), because the event loop must not wait for the disk at each change of a condition.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

from headrace.api import vocabulary as v
from headrace.errors import CannotStart, HeadraceError, SystemFault
from headrace.kinds.registry import RESOURCE_KINDS
from headrace.local.home import home_fault
from headrace.reconcile.conditions import Condition, rendered
from headrace.reconcile.world import Manifest, ObjectKey

MAX_EVENTS = 1000
"""Events that are kept. Kubernetes keeps those of one hour, too few for a user who returns the next day."""
FULL_BYTES = 64 * 1024
"""A disk with less free space is full: SQLite needs 32 KiB for the index of its log."""
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS objects (
        kind TEXT, namespace TEXT, name TEXT, manifest TEXT NOT NULL, PRIMARY KEY (kind, namespace, name))""",
    """CREATE TABLE IF NOT EXISTS events (
        namespace TEXT, name TEXT, last TEXT NOT NULL, manifest TEXT NOT NULL, PRIMARY KEY (namespace, name))""",
)
_WRITES = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})


class Store:
    """The file, for use by one thread. Every method raises SystemFault on an error of the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
        except sqlite3.Error as error:
            raise _fault(error, path) from error
        for statement in ("PRAGMA journal_mode=WAL", *_SCHEMA):
            self._execute(statement)

    def objects(self) -> list[Manifest]:
        """Return every object."""
        return [json.loads(row[0]) for row in self._execute("SELECT manifest FROM objects")]

    def events(self) -> list[Manifest]:
        """Return every event, oldest first."""
        return [json.loads(row[0]) for row in self._execute("SELECT manifest FROM events ORDER BY last")]

    def put(self, manifest: Manifest) -> None:
        """Store an object; it is on the disk on return."""
        self._flush_to_disk(always=True)
        self._put(manifest)

    def put_status(self, manifest: Manifest) -> None:
        """Store an object of which only the status has changed."""
        self._flush_to_disk(always=False)
        self._put(manifest)

    def remove(self, key: ObjectKey) -> None:
        """Remove an object, from the disk on return."""
        self._flush_to_disk(always=True)
        self._execute(
            "DELETE FROM objects WHERE kind = ? AND namespace = ? AND name = ?", key.kind, key.namespace, key.name
        )

    def put_event(self, event: Manifest) -> list[ObjectKey]:
        """Store an event; return the keys of the oldest events, which were removed for it."""
        self._flush_to_disk(always=False)
        key = ObjectKey.of(event)
        row = (key.namespace, key.name, event["lastTimestamp"], json.dumps(event))
        self._execute("INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?)", *row)
        old = self._execute(
            "SELECT namespace, name FROM events ORDER BY last DESC, rowid DESC LIMIT -1 OFFSET ?", MAX_EVENTS
        )
        for namespace, name in old:
            self._execute("DELETE FROM events WHERE namespace = ? AND name = ?", namespace, name)
        return [ObjectKey(key.kind, namespace, name) for namespace, name in old]

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _put(self, manifest: Manifest) -> None:
        key = ObjectKey.of(manifest)
        row = (key.kind, key.namespace, key.name, json.dumps(manifest))
        self._execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", *row)

    def _flush_to_disk(self, *, always: bool) -> None:
        self._execute(f"PRAGMA synchronous={'FULL' if always else 'NORMAL'}")

    def _execute(self, statement: str, *values: object) -> list[Any]:
        try:
            return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise _fault(error, self._path) from error


def _fault(error: sqlite3.Error, path: Path) -> HeadraceError:
    """Return the explanation of an SQLite error. A full disk may also appear as an error of reading or opening."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest says in which call
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return CannotStart(
            f"{path} is damaged: {error}", hint="Move it away: the instance then starts without its resources"
        )
    if code == sqlite3.SQLITE_FULL or (code in _WRITES and shutil.disk_usage(path.parent).free < FULL_BYTES):
        number = errno.ENOSPC
    elif code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        number = errno.EACCES
    else:
        return SystemFault(f"cannot use {path}: {error}", hint=f"Check its disk, and the log in {path.parent / 'logs'}")
    return home_fault(OSError(number, os.strerror(number), str(path)))


def unobserved(resource: Manifest) -> Manifest:
    """Return a stored resource before its first pass: recorded status fields are kept, conditions are Unknown."""
    kind, before = RESOURCE_KINDS[resource["kind"]], resource.get("status", {})
    kept = {name: before[name] for name in kind.recorded_status if name in before}
    message = "not observed since headrace was started"
    unknown = [Condition(type_, "Unknown", v.PENDING, message) for type_ in kind.conditions]
    generation = resource["metadata"]["generation"]
    return {**resource, "status": {**kept, "conditions": rendered(unknown, [], generation, time.time())}}
