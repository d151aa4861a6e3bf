"""Worker whose children use the store and the bus, and are killed there: `python -m nodes.churn AGENT_SOCKET KEY`.

Each cycle is a session of its own: it writes a draft, seals an object or maps one, and joins the bus (every tenth).
A process has `SESSIONS` of them, all open, when it is killed.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from pathlib import Path
from typing import Literal

from headrace.agent.connection import AgentConnection
from headrace.bus.client import join
from headrace.store.client import Store
from headrace.store.keys import ObjectClass

from .processes import say

SIZE = 8192
SESSIONS = 20
JOINS = 10
"""Every such cycle joins the bus, by turns with each transport."""
TRANSPORTS: tuple[Literal["unix", "sockmap", "tcp"], ...] = ("unix", "sockmap", "tcp")


def cycle(path: Path, key: str, number: int, held: list[object]) -> None:
    """Use the agent in a new session; what is to stay open is added to `held`."""
    store = Store(path)
    if number % 3 == 0:
        draft = store.create(ObjectClass.KV, SIZE)
        draft.memory[:] = bytes(SIZE)
        held.append(draft)
    elif number % 3 == 1:
        held.append(store.put(ObjectClass.KV, number.to_bytes(SIZE, "little")))
    else:
        mapped = store.get(key)
        assert bytes(mapped.memory[:4]) == b"kept"
        held.append((store, mapped))
    if number % JOINS == 0:
        held.append(join(AgentConnection(path), TRANSPORTS[number // JOINS % 3]))


def crashes(path: Path, key: str, first: int) -> int:
    """Run `SESSIONS` cycles in a process that is killed; return how many it had open."""
    pid = os.fork()
    if not pid:
        try:
            held: list[object] = []
            for number in range(first, first + SESSIONS):
                cycle(path, key, number, held)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    return SESSIONS if os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL else 0


def main() -> None:
    """Run cycles on request; report how many ended by a kill."""
    path, key = Path(sys.argv[1]), sys.argv[2]
    gc.freeze()
    for line in sys.stdin:
        first, last = json.loads(line)["cycles"]
        say(sum(crashes(path, key, number) for number in range(first, last, SESSIONS)))


if __name__ == "__main__":
    main()
