"""`headrace-nats`: a NATS server in a container, with a client beside it that admits namespaces as they are named.

nats-server reads its users from a configuration file alone. So this process is its parent: it writes the file, and
listens on the server itself, as the user `broker`, for the operator to tell which namespaces there should be.
The file is of memory, not of a disk: it holds every password of the platform.

Neither lives without the other. When the server ends, so does this process, and the kubelet starts both again; what
counts is on the volume. When this process is killed, the kernel kills the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import nats.errors
from nats.aio.msg import Msg
from pydantic import ValidationError

from headrace.broker import admission
from headrace.broker.config import BROKER, GATEWAY, RECONCILER, Credentials, Server, Users, render, runtime_user
from headrace.broker.passwords import runtime_password
from headrace.broker.server import find_nats_server, reload, until_ready
from headrace.broker.settings import Settings
from headrace.errors import CannotStart, HeadraceError
from headrace.events import subjects
from headrace.events.connection import connect
from headrace.events.messages import AdmittedAnswer, AdmittedNamespaces
from headrace.process import Process, spawn
from headrace.termination import write_termination_message

log = logging.getLogger(__name__)

READY_SECONDS = 60.0
"""It takes 5 ms; a store that was cut by a crash, on a slow volume, takes seconds to read."""
STOP_SECONDS = 20.0
"""For the server to write its store out: well within the 30 s that Kubernetes gives a pod."""
PASSWORD_BYTES = 24
SECRETS_PREFIX = "HEADRACE_"
"""Our own variables hold secrets; the server has them in its configuration, and its environment goes without."""


class Broker:
    """One nats-server, its configuration, and who is admitted. Made in a running event loop, in the main thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._login = Credentials(BROKER, secrets.token_urlsafe(PASSWORD_BYTES))
        self._server = Server(
            name="headrace",
            port=settings.port,
            store=settings.store,
            host=settings.host,
            monitoring_port=settings.monitoring_port,
        )
        kept = admission.load(settings.store)
        self._obeyed: frozenset[str] | None = kept
        """The set in force; None while it is not known, because a reload failed."""
        self._file = os.memfd_create("nats.conf")
        self._write_config(kept)
        command = [find_nats_server(), "--config", f"/proc/self/fd/{self._file}"]
        variables = {name: value for name, value in os.environ.items() if not name.startswith(SECRETS_PREFIX)}
        self.process: Process = spawn(command, variables, None, pass_fds=[self._file])

    async def serve(self) -> None:
        """Admit who is named, for ever. Raises CannotStart when the server does not come up."""
        settings = self._settings
        await until_ready(self.process, settings.own_host, settings.port, READY_SECONDS, hint="Its log tells why")
        login = self._login
        client = await connect(settings.own_url, name="broker", user=login.user, password=login.password)
        try:
            # The client awaits one answer before it looks at the next request, so two changes never overlap.
            await client.subscribe(subjects.ADMIT, cb=self._answer)
            log.info("ready; admitted: %s", _told(self._obeyed or ()))
            await asyncio.Event().wait()
        finally:
            await client.close()

    async def _answer(self, request: Msg) -> None:
        try:
            await self._admit(AdmittedNamespaces.decode(request.data))
        except (HeadraceError, ValidationError, OSError) as error:
            log.error("the set of namespaces is as it was: %s", error)  # noqa: TRY400 - the message is the explanation
            answer = AdmittedAnswer(refusal=str(error))
        else:
            answer = AdmittedAnswer()
        with contextlib.suppress(nats.errors.Error, OSError):  # the server is gone, and we are about to follow
            await request.respond(answer.encode())

    async def _admit(self, asked: AdmittedNamespaces) -> None:
        namespaces = admission.checked(asked.namespaces)
        if namespaces == self._obeyed:
            return
        self._obeyed = None
        admission.keep(self._settings.store, namespaces)
        self._write_config(namespaces)
        await reload(self.process, self._settings.own_host, self._settings.monitoring_port)
        self._obeyed = namespaces
        log.info("admitted: %s", _told(namespaces))

    def _write_config(self, namespaces: frozenset[str]) -> None:
        settings = self._settings
        key = settings.runtime_key
        users = Users(
            reconciler=Credentials(RECONCILER, settings.reconciler_password),
            gateway=Credentials(GATEWAY, settings.gateway_password),
            runtimes={name: Credentials(runtime_user(name), runtime_password(key, name)) for name in namespaces},
            broker=self._login,
        )
        text = render(self._server, users).encode()
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text, 0)  # the server reads it at its start and at SIGHUP only


def _told(namespaces: Iterable[str]) -> str:
    return ", ".join(sorted(namespaces)) or "nobody"


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises CannotStart when the server does not come up, or ends by itself."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    broker = Broker(settings)
    loop.add_signal_handler(signal.SIGCHLD, _reap_strangers, broker.process.pid)
    _reap_strangers(broker.process.pid)  # those who died before the handler was there
    stopped = asyncio.create_task(stopping.wait())
    ended = asyncio.create_task(broker.process.wait())
    serving = asyncio.create_task(broker.serve())
    tasks: list[asyncio.Task[Any]] = [stopped, ended, serving]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            log.info("stopping")
        elif serving.done():
            serving.result()
        else:
            raise CannotStart(f"nats-server ended with code {ended.result()}", hint="Its log tells why")
    finally:
        serving.cancel()
        await broker.process.stop(STOP_SECONDS)
        stopped.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _reap_strangers(own: int) -> None:
    """Collect the dead that the kernel gave us as a container's first process; our own child is its `Process`'s."""
    with contextlib.suppress(ChildProcessError):
        while True:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if dead is None or dead.si_pid == own:
                return
            os.waitpid(dead.si_pid, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the broker; return the exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(run(Settings.parse(arguments)))
    except HeadraceError as error:
        log.error("%s", error)  # noqa: TRY400 - the message is the explanation; a trace would bury it
        write_termination_message(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
