"""A node agent with the bus alone, in a process that a test can kill. Arguments: a folder, a transport."""

from __future__ import annotations

import sys
from pathlib import Path

from bus.bus_world import node


def main() -> None:
    transport = sys.argv[2]
    assert transport in {"unix", "sockmap", "tcp"}
    with node(Path(sys.argv[1]), transport) as world:  # type: ignore[arg-type] # checked above
        world.thread.listen(Path(sys.argv[1]) / "a.sock", "a")
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
