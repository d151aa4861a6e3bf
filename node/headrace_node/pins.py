"""Pinning of the weights of existing models: as the operator's list says, which is a file of the agent's pod.

A listed object is exempt from eviction. One that was pinned and is not listed any more belongs to no model: it is
removed, which frees its memory as soon as no process maps it. Objects that were never listed are left to the LRU.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from headrace.agent.kept import MAX_BYTES, decode
from headrace.store.keys import ObjectClass
from headrace_node.store.objects import ObjectStore

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
"""Between two comparisons of file and store. The kubelet updates the file once a minute."""


async def keep_pinned(store: ObjectStore, file: Path) -> None:
    """Apply the list until cancelled. Nothing is changed while the file does not exist or cannot be read."""
    while True:
        try:
            with file.open("rb") as opened:
                text = opened.read(MAX_BYTES).decode(errors="replace")
        except FileNotFoundError:
            pass  # the operator has not written it yet
        except OSError as error:
            log.warning("the list of pinned objects cannot be read: %s", error)
        else:
            apply_pins(store, decode(text))
        await asyncio.sleep(CHECK_SECONDS)


def apply_pins(store: ObjectStore, listed: frozenset[tuple[str, str]]) -> None:
    """Pin the listed weights, given as tenant and name, and remove those that were pinned and are not listed."""
    for stored in list(store.objects()):
        record = stored.record
        if record.object_class is not ObjectClass.WEIGHTS or record.name is None:
            continue
        wanted = (record.tenant, record.name) in listed
        if wanted and not record.pinned:
            store.pin(record.tenant, record.key, pinned=True)
        elif record.pinned and not wanted:
            log.info("the weights %s of %s belong to no model any more", record.name, record.tenant)
            store.delete(record.tenant, record.key)
