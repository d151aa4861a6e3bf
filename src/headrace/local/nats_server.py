"""The instance's NATS server: the packaged binary, on one loopback port for the life of the instance.

The supervisor reserves the port with a socket that is bound and never listens. The server can still listen there (both
set SO_REUSEADDR), but no other program gets the port during a restart, and the kernel does not use it as the source
port of a reconnecting client, which would then connect to itself.

Passwords are generated at each start. A namespace is admitted by a new configuration file and SIGHUP, which keeps the
present connections.
"""

from __future__ import annotations

import logging
import secrets
import signal
import socket
from dataclasses import replace

from headrace.broker.config import GATEWAY, LOOPBACK, RECONCILER, Credentials, Server, Users, render, runtime_user
from headrace.broker.server import find_nats_server, until_ready
from headrace.files import write_private
from headrace.local.home import InstanceHome
from headrace.local.supervised import Supervised
from headrace.local.variables import component_variables
from headrace.process import Process, spawn

log = logging.getLogger(__name__)

READY_SECONDS = 10.0
"""It takes 5 ms; reading the store after a crash takes longer."""
PASSWORD_BYTES = 24


class NatsServer:
    """One NATS server; `supervised` keeps it running."""

    def __init__(self, home: InstanceHome) -> None:
        self._program = find_nats_server()
        self._config = home.nats / "nats.conf"
        self._errors = home.logs / "nats.err"
        """Its output until it has read where to log."""
        self._reserved = _reserve_port()
        self._server = Server(
            name=f"headrace-{home.name}",
            port=self._reserved.getsockname()[1],
            store=home.nats / "store",
            log=home.logs / "nats.log",
        )
        self._users = Users(_new(RECONCILER), _new(GATEWAY), {})
        self.supervised = Supervised("nats-server", self._start)

    @property
    def url(self) -> str:
        """The URL for clients, without credentials."""
        return f"nats://{LOOPBACK}:{self._server.port}"

    @property
    def reconciler(self) -> Credentials:
        """The reconcile loop's login."""
        return self._users.reconciler

    @property
    def gateway(self) -> Credentials:
        """The gateway's login."""
        return self._users.gateway

    def admit(self, namespace: str) -> Credentials:
        """Return the login of a namespace's runtimes. The server accepts a new one within milliseconds.

        A client that connects earlier is rejected once and retries.
        """
        if namespace not in self._users.runtimes:
            runtimes = {**self._users.runtimes, namespace: _new(runtime_user(namespace))}
            users = replace(self._users, runtimes=runtimes)
            self._write_config(users)
            self._users = users
            self.supervised.signal(signal.SIGHUP)
        return self._users.runtimes[namespace]

    def close(self) -> None:
        """Release the port of the stopped server, and delete the file with the passwords."""
        self._reserved.close()
        self._config.unlink(missing_ok=True)

    def _write_config(self, users: Users) -> None:
        write_private(self._config, render(self._server, users))

    async def _start(self) -> Process:
        known = self._users
        self._write_config(known)
        process = spawn([self._program, "--config", str(self._config)], component_variables(), self._errors)
        try:
            hint = f"See {self._server.log} and {self._errors}"
            await until_ready(process, LOOPBACK, self._server.port, READY_SECONDS, hint=hint)
        except BaseException:
            process.signal(signal.SIGKILL)
            raise
        if self._users is not known:
            process.signal(signal.SIGHUP)  # a namespace was admitted during the start
        return process


def _new(user: str) -> Credentials:
    return Credentials(user, secrets.token_urlsafe(PASSWORD_BYTES))


def _reserve_port() -> socket.socket:
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((LOOPBACK, 0))
    return reserved
