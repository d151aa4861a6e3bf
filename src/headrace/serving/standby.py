"""A standby pod's process: it answers probes, loads its libraries, and waits on NATS for the model that it is to serve.

It belongs to no model and has served none: a launch is the end of its wait, and it exits as that model's replica.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

import uvloop

from headrace import environment
from headrace.environment import expanded
from headrace.errors import CannotStart, HeadraceError
from headrace.events import subjects
from headrace.events.connection import connect
from headrace.events.decoder import Decoder
from headrace.events.messages import Launch
from headrace.events.nats_library import Msg
from headrace.http.server import http_server, listen
from headrace.serving.exchange import Endpoints
from headrace.serving.log import configure_logging
from headrace.serving.metrics import RuntimeMetrics
from headrace.serving.probes import QUIET_PATHS, Probes
from headrace.serving.replica import Replica
from headrace.serving.reporter import REFUSED_SECONDS
from headrace.termination import write_termination_message

log = logging.getLogger(__name__)

LOAD_SECONDS = 3.0
"""After its start, until it loads libraries. It usually starts when another one has become a replica, whose first
answer that would slow down."""


def await_launch(host: str, port: int, load_libraries: Callable[[], None]) -> list[str] | None:
    """Wait for the launch and return its arguments; its variables are set. None after SIGTERM.

    Raises SystemExit after an error, with the cause in the termination message.
    """
    configure_logging()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            launch = runner.run(_live(host, port, load_libraries))
    except HeadraceError as error:
        log.error("%s", error)  # noqa: TRY400 - the message is the explanation; a trace would bury it
        write_termination_message(str(error))
        raise SystemExit(error.exit_code) from error
    if launch is None:
        return None
    os.environ.update(launch.variables)
    return [expanded(argument, os.environ) for argument in launch.arguments]


async def _live(host: str, port: int, load_libraries: Callable[[], None]) -> Launch | None:
    """Answer probes on the port of the replica until the launch, or None after SIGTERM."""
    replica: Replica[Any] = Replica()
    endpoints = Endpoints(Probes(replica, RuntimeMetrics(replica, "standby"), None).handlers(), quiet=QUIET_PATHS)
    server = http_server(endpoints, grace_seconds=0)
    serving = asyncio.create_task(server.serve([listen(host, port)]))
    waiting = asyncio.create_task(_wait(os.environ, load_libraries))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, waiting.cancel)
    try:
        return await waiting
    except asyncio.CancelledError:
        return None
    finally:
        server.should_exit = True
        await serving


async def _wait(variables: Mapping[str, str], load_libraries: Callable[[], None]) -> Launch:
    """Load the libraries after a while, and return the launch. Raises CannotStart, LoginRefused."""
    needed = (environment.NATS_URL, environment.NAMESPACE, environment.POD_NAME)
    missing = [name for name in needed if not variables.get(name)]
    if missing:
        raise CannotStart(f"{', '.join(missing)} is not set", hint="A standby pod's template sets all of them")
    url, namespace, pod = (variables[name] for name in needed)
    launched: asyncio.Future[Launch] = asyncio.get_running_loop().create_future()
    decoder = Decoder()

    async def on_launch(msg: Msg) -> None:
        launch = decoder.decode(Launch, msg)
        if launch is not None and not launched.done():
            launched.set_result(launch)

    client = await connect(
        url,
        name=f"standby-{namespace}-{pod}",
        user=variables.get(environment.NATS_USER),
        password=variables.get(environment.NATS_PASSWORD),
        refused_seconds=REFUSED_SECONDS,
    )
    try:
        await client.subscribe(subjects.launch(namespace, pod), cb=on_launch)
        await asyncio.wait([launched], timeout=LOAD_SECONDS)
        if not launched.done():
            await asyncio.to_thread(load_libraries)
            log.info("waiting for a model")
        return await launched
    finally:
        await client.close()
