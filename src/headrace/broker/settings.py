"""Settings of the broker. Secrets are environment variables, because command lines are public."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from headrace import environment
from headrace.errors import CannotStart

RECONCILER_PASSWORD = "HEADRACE_NATS_RECONCILER_PASSWORD"  # noqa: S105 - the variable's name
GATEWAY_PASSWORD = "HEADRACE_NATS_GATEWAY_PASSWORD"  # noqa: S105 - as above


@dataclass(frozen=True, slots=True)
class Settings:
    """The broker's configuration."""

    host: str
    """Address to listen on; 0.0.0.0 for all, :: for all of both families."""
    port: int
    monitoring_port: int
    """Port of nats-server's `/healthz`, for probes."""
    store: Path
    """The volume: JetStream's files, and the set of admitted namespaces."""
    reconciler_password: str = field(repr=False)
    gateway_password: str = field(repr=False)
    runtime_key: str = field(repr=False)
    """Key from which the password of each namespace's runtimes is derived."""

    @property
    def own_host(self) -> str:
        """Address at which this process reaches the server."""
        address = ip_address(self.host)
        if not address.is_unspecified:
            return self.host
        return "::1" if isinstance(address, IPv6Address) else "127.0.0.1"

    @property
    def own_url(self) -> str:
        """URL at which this process reaches the server."""
        host = f"[{self.own_host}]" if ":" in self.own_host else self.own_host
        return f"nats://{host}:{self.port}"

    @classmethod
    def parse(cls, arguments: Sequence[str] | None, variables: Mapping[str, str] = os.environ) -> Settings:
        """Return the settings; exits with 2 and the usage for invalid arguments. Raises CannotStart without secrets."""
        parser = argparse.ArgumentParser(
            prog="headrace-nats",
            description="NATS server of headrace, which admits the runtimes of the namespaces that the operator sends.",
            epilog=f"From the environment: {RECONCILER_PASSWORD}, {GATEWAY_PASSWORD}, {environment.NATS_RUNTIME_KEY}.",
        )
        parser.add_argument("--host", type=_address, default="127.0.0.1", help="IP address to listen on (%(default)s)")
        parser.add_argument("--port", type=int, default=4222, help="port for clients (%(default)s)")
        parser.add_argument(
            "--monitoring-port",
            type=int,
            default=8222,
            help="port of the server's /healthz and /varz (%(default)s)",
        )
        parser.add_argument("--store", type=Path, required=True, help="directory for all persistent data")
        given = parser.parse_args(arguments)
        return cls(
            host=given.host,
            port=given.port,
            monitoring_port=given.monitoring_port,
            store=given.store,
            reconciler_password=_secret(variables, RECONCILER_PASSWORD),
            gateway_password=_secret(variables, GATEWAY_PASSWORD),
            runtime_key=_secret(variables, environment.NATS_RUNTIME_KEY),
        )


def _address(text: str) -> str:
    return str(ip_address(text))


def _secret(variables: Mapping[str, str], name: str) -> str:
    value = variables.get(name)
    if not value:
        raise CannotStart(f"the environment variable {name} is not set", hint="The chart sets it from a Secret")
    return value
