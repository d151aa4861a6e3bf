"""`headrace-nats`: a NATS server in a container, and a client of it that admits namespaces.

nats-server reads its users from a configuration file only. So this process is its parent: it writes the file, and
connects to the server as the user `broker` to receive the set of namespaces from the operator. The file is in memory
and not on a disk, because it contains every password of the platform.

When the server exits, this process exits too, and the kubelet restarts both; all state is on the volume. When this
process is killed, the kernel kills the server.
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
"""A start takes 5 ms; recovering the store after a crash, on a slow volume, takes seconds."""
STOP_SECONDS = 20.0
"""Time for the server to flush its store, within the 30 s of a pod's default grace period."""
PASSWORD_BYTES = 24
SECRETS_PREFIX = "HEADRACE_"
"""Prefix of variables that contain secrets; the server gets them by its configuration, not by its environment."""


class Broker:
    """A nats-server, its configuration and the admitted namespaces.

    Must be created in a running event loop, in the main thread.
    """

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
        self._in_force: frozenset[str] | None = kept
        """The set in force; None while it is unknown because a reload failed."""
        self._file = os.memfd_create("nats.conf")
        self._write_config(kept)
        command = [find_nats_server(), "--config", f"/proc/self/fd/{self._file}"]
        variables = {name: value for name, value in os.environ.items() if not name.startswith(SECRETS_PREFIX)}
        self.process: Process = spawn(command, variables, None, pass_fds=[self._file])

    async def serve(self) -> None:
        """Handle requests of the operator until cancelled. Raises CannotStart if the server does not become ready."""
        settings = self._settings
        await until_ready(self.process, settings.own_host, settings.port, READY_SECONDS, hint="See its log")
        login = self._login
        client = await connect(settings.own_url, name="broker", user=login.user, password=login.password)
        try:
            # The client awaits each callback before it handles the next request, so two changes never overlap.
            await client.subscribe(subjects.ADMIT, cb=self._answer)
            log.info("ready; admitted namespaces: %s", _listed(self._in_force or ()))
            await asyncio.Event().wait()
        finally:
            await client.close()

    async def _answer(self, request: Msg) -> None:
        try:
            await self._admit(AdmittedNamespaces.decode(request.data))
        except (HeadraceError, ValidationError, OSError) as error:
            log.error("the set of namespaces is unchanged: %s", error)  # noqa: TRY400 - the message is sufficient
            answer = AdmittedAnswer(refusal=str(error))
        else:
            answer = AdmittedAnswer()
        with contextlib.suppress(nats.errors.Error, OSError):  # the server has exited, and so will this process
            await request.respond(answer.encode())

    async def _admit(self, request: AdmittedNamespaces) -> None:
        namespaces = admission.checked(request.namespaces)
        if namespaces == self._in_force:
            return
        self._in_force = None
        admission.keep(self._settings.store, namespaces)
        self._write_config(namespaces)
        await reload(self.process, self._settings.own_host, self._settings.monitoring_port)
        self._in_force = namespaces
        log.info("admitted namespaces: %s", _listed(namespaces))

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
        os.pwrite(self._file, text, 0)  # the server reads it only at its start and at SIGHUP


def _listed(namespaces: Iterable[str]) -> str:
    return ", ".join(sorted(namespaces)) or "none"


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises CannotStart if the server does not become ready, or exits."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    broker = Broker(settings)
    loop.add_signal_handler(signal.SIGCHLD, _reap_orphans, broker.process.pid)
    _reap_orphans(broker.process.pid)  # those that exited before the handler was set
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
            raise CannotStart(f"nats-server exited with code {ended.result()}", hint="See its log")
    finally:
        serving.cancel()
        await broker.process.stop(STOP_SECONDS)
        stopped.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _reap_orphans(own: int) -> None:
    """Reap orphaned processes, which become children of a container's first process; `Process` reaps our own child."""
    with contextlib.suppress(ChildProcessError):
        while True:
            exited = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if exited is None or exited.si_pid == own:
                return
            os.waitpid(exited.si_pid, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the broker; return the exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(run(Settings.parse(arguments)))
    except HeadraceError as error:
        log.error("%s", error)  # noqa: TRY400 - the message is sufficient; a traceback would hide it
        write_termination_message(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
