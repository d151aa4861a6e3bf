"""`headrace-node`: the node agent, its CSI service, and the keeper of its memory."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from headrace.errors import HeadraceError, system_fault
from headrace.termination import write_termination_message
from headrace_node.settings import AgentSettings, KeeperSettings, Settings, parse

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent, the keeper or the CSI service; return the exit code."""
    settings = parse(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        with _alone(settings.lock):
            _program(settings)()
    except HeadraceError as error:
        return _failed(error)
    except OSError as error:
        return _failed(system_fault(error))
    return 0


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process of this part runs on the node: its sockets have the same paths.

    A pod that is deleted by force may still run when the next one starts; at its end it removes its sockets.
    The kernel releases the lock when the process ends. Raises OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for the end of another process that has locked %s", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _program(settings: Settings) -> Callable[[], None]:
    """Return what to run; only that part is imported, as the agent needs no gRPC and the CSI service no store."""
    if isinstance(settings, AgentSettings):
        from headrace_node.agent import run as run_agent  # noqa: PLC0415 - see above

        return lambda: run_agent(settings)
    if isinstance(settings, KeeperSettings):
        from headrace_node.keeper import run as run_keeper  # noqa: PLC0415 - see above

        return lambda: run_keeper(settings.socket)
    from headrace_node.csi.process import run as run_csi  # noqa: PLC0415 - see above

    return lambda: run_csi(settings)


def _failed(error: HeadraceError) -> int:
    log.error("%s", error)
    write_termination_message(str(error))
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
