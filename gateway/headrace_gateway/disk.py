"""The last known table on disk, so that a gateway that restarts while NATS is unavailable serves the running replicas.

One JSON file, replaced as a whole and readable by its owner only: it contains the secrets of replicas (which identify
them and give access to them). It contains digests of API keys, never keys. Its content is used until NATS provides
newer data; replicas are probed before they get a request.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from pathlib import Path

from pydantic import BaseModel, ValidationError

from headrace.events.messages import Announcement, ReplicaReport
from headrace.routes import KeyGrant, Route
from headrace_gateway.replica import Replica
from headrace_gateway.table import Table

log = logging.getLogger(__name__)

FILE_NAME = "gateway.json"
WRITE_SECONDS = 0.5
"""Shortest time between two writes: a rollout of many models is one file, not hundreds."""


class KnownReplica(BaseModel):
    """A replica for which the reconcile loop reports, with its model."""

    namespace: str
    name: str
    report: ReplicaReport


class SelfRegistered(KnownReplica):
    """A replica that reports itself, and has proven its address."""

    report: Announcement


class Copy(BaseModel):
    """The file."""

    gateway: str
    """The gateway's id: kept, so that acknowledgements stay valid after a restart."""
    loaded: bool = False
    routes: dict[str, Route] = {}
    keys: dict[str, KeyGrant | None] = {}
    brought: list[KnownReplica] = []
    self_registered: list[SelfRegistered] = []


class DiskCopy:
    """Writes the table to the file after changes; does nothing without a directory."""

    def __init__(self, directory: Path | None) -> None:
        self._path = directory / FILE_NAME if directory is not None else None
        self._changed = asyncio.Event()
        self._copy_found = self._read()
        self.gateway = self._copy_found.gateway if self._copy_found is not None else f"gateway-{secrets.token_hex(4)}"

    def load(self, table: Table) -> None:
        """Load the file into the table; changes of the table are written from now on."""
        copy, self._copy_found = self._copy_found, None
        if copy is not None:
            if copy.loaded:
                table.loaded.set()
            for key, route in copy.routes.items():
                table.set_route(key, route.encode())
            for entry, grant in copy.keys.items():
                if grant is not None:
                    table.set_key(entry, grant.encode())
                else:
                    table.lose_key(entry)
            now = asyncio.get_running_loop().time()
            replicas = [*copy.brought, *copy.self_registered]
            for known in replicas:
                replica = Replica(known.report, now)
                replica.proven = True  # before the restart; it is probed again before it gets a request
                table.add_replica(table.model(known.namespace, known.name), replica)
            log.info("read %d routes and %d replicas from %s", len(copy.routes), len(replicas), self._path)
        table.changed = self._changed.set
        self._changed.set()

    async def run(self, table: Table) -> None:
        """Write until cancelled."""
        if self._path is None:
            return
        while True:
            await self._changed.wait()
            self._changed.clear()
            text = self._copy(table).model_dump_json()
            try:
                await asyncio.to_thread(_replace, self._path, text)
            except OSError as error:
                log.warning(
                    "cannot write %s: %s; a restart without NATS would use old data", self._path, error.strerror
                )
            await asyncio.sleep(WRITE_SECONDS)

    def _copy(self, table: Table) -> Copy:
        proven = [
            (model, replica.report)
            for model in table.models.values()
            for replica in model.replicas.values()
            if replica.proven
        ]
        return Copy(
            gateway=self.gateway,
            loaded=table.loaded.is_set(),
            routes=table.routes(),
            keys=table.grants(),
            brought=[
                KnownReplica(namespace=model.namespace, name=model.name, report=report)
                for model, report in proven
                if not isinstance(report, Announcement)
            ],
            self_registered=[
                SelfRegistered(namespace=model.namespace, name=model.name, report=report)
                for model, report in proven
                if isinstance(report, Announcement)
            ],
        )

    def _read(self) -> Copy | None:
        if self._path is None:
            return None
        try:
            return Copy.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.warning("ignored %s: %s", self._path, type(error).__name__)
            return None


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_suffix(".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)
