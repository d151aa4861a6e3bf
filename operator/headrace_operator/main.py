"""`headrace-operator`: the command."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence

from headrace.errors import HeadraceError
from headrace.termination import write_termination_message
from headrace_operator.cleanup import clean_up
from headrace_operator.operator import run
from headrace_operator.settings import Settings

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the operator, or `cleanup`; return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("kopf").setLevel(logging.WARNING)
    try:
        if given[:1] == ["cleanup"]:
            return clean_up(given[1:])
        asyncio.run(run(Settings.parse(given)))
    except HeadraceError as error:
        log.error("%s", error)  # noqa: TRY400 - the message is the explanation; a trace would bury it
        write_termination_message(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
