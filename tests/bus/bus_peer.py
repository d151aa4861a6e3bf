"""A process of a pod, for tests: joins the bus, prints its id, and acknowledges every frame until it is killed.

Arguments: the agent's socket, the transport.
"""

from __future__ import annotations

import sys
from pathlib import Path

from headrace.agent.connection import AgentConnection
from headrace.bus.client import join


def main() -> None:
    transport = sys.argv[2]
    assert transport in {"unix", "sockmap", "tcp"}
    with join(AgentConnection(Path(sys.argv[1])), transport) as endpoint:  # type: ignore[arg-type] # checked above
        sys.stdout.write(f"{endpoint.id}\n")
        sys.stdout.flush()
        while (frame := endpoint.receive()) is not None:
            endpoint.ack(frame)


if __name__ == "__main__":
    main()
