"""The instance's NATS server: the packaged binary, on one loopback port for the life of the instance.

The supervisor keeps the port reserved by a socket that is bound and never listens. The server may still listen there
(both set SO_REUSEADDR), but nobody else gets the port while it is restarted: neither another program, nor one of our
own reconnecting clients, whose outgoing connection the kernel could otherwise give the very port that it calls.

Passwords are made anew at each start. A namespace is admitted by writing the configuration and SIGHUP: connections of
others stay.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
from dataclasses import replace

from headrace.errors import CannotStart
from headrace.local.home import InstanceHome, write_private
from headrace.local.nats_config import GATEWAY, HOST, RECONCILER, Credentials, Users, render, runtime_user
from headrace.local.process import Process, spawn
from headrace.local.programs import find_program
from headrace.local.supervised import Supervised

log = logging.getLogger(__name__)

READY_SECONDS = 10.0
"""It takes 5 ms; a store that was cut by a crash takes longer to read."""
LOOK_SECONDS = 0.005
"""Between two looks whether it listens: a refused connection to loopback costs 30 µs."""
PASSWORD_BYTES = 24


class NatsServer:
    """One NATS server; `supervised` keeps it running."""

    def __init__(self, home: InstanceHome) -> None:
        self._program = find_program("nats-server", hint="Install it: pip install 'headrace[local]'")
        self._name = f"headrace-{home.name}"
        self._config = home.nats / "nats.conf"
        self._store = home.nats / "store"
        self._log = home.logs / "nats.log"
        self._errors = home.logs / "nats.err"
        """What it says before it has read where to log."""
        self._reserved = _reserve_port()
        self._port: int = self._reserved.getsockname()[1]
        self._users = Users(_new(RECONCILER), _new(GATEWAY), {})
        self.supervised = Supervised("nats-server", self._start)

    @property
    def url(self) -> str:
        """Where clients connect; no credentials in it."""
        return f"nats://{HOST}:{self._port}"

    @property
    def reconciler(self) -> Credentials:
        """The reconcile loop's login."""
        return self._users.reconciler

    @property
    def gateway(self) -> Credentials:
        """The gateway's login."""
        return self._users.gateway

    def admit(self, namespace: str) -> Credentials:
        """Return the login of the runtimes of a namespace; the server learns of a new one within milliseconds.

        A client that is quicker is refused once and tries again.
        """
        if namespace not in self._users.runtimes:
            runtimes = {**self._users.runtimes, namespace: _new(runtime_user(namespace))}
            self._users = replace(self._users, runtimes=runtimes)
            self._write_config()
            self.supervised.signal(signal.SIGHUP)
        return self._users.runtimes[namespace]

    def close(self) -> None:
        """Give the port back, once the server is stopped, and forget the passwords."""
        self._reserved.close()
        self._config.unlink(missing_ok=True)

    def _write_config(self) -> None:
        write_private(self._config, render(self._name, self._port, self._store, self._log, self._users))

    async def _start(self) -> Process:
        self._write_config()
        known = self._users
        process = spawn([self._program, "--config", str(self._config)], os.environ, self._errors)
        try:
            await self._wait_until_ready(process)
        except BaseException:
            process.signal(signal.SIGKILL)
            raise
        if self._users is not known:
            process.signal(signal.SIGHUP)  # somebody was admitted while it started
        return process

    async def _wait_until_ready(self, process: Process) -> None:
        """Return when it greets a client. Raises CannotStart when it ends before, or takes too long."""
        ended = asyncio.ensure_future(process.wait())
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not await self._greets():
                    if ended.done():
                        raise CannotStart(
                            f"nats-server ended with code {ended.result()}", hint=f"See {self._log} and {self._errors}"
                        )
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError as error:
            raise CannotStart(
                f"nats-server was not ready within {READY_SECONDS:.0f} s", hint=f"See {self._log}"
            ) from error
        finally:
            ended.cancel()

    async def _greets(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection(HOST, self._port)
        except OSError:
            return False
        try:
            return (await reader.read(5)).startswith(b"INFO")
        except OSError:
            return False
        finally:
            writer.close()


def _new(user: str) -> Credentials:
    return Credentials(user, secrets.token_urlsafe(PASSWORD_BYTES))


def _reserve_port() -> socket.socket:
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((HOST, 0))
    return reserved
