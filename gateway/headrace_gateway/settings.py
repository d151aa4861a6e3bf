"""The settings of the gateway. Secrets come from the environment only: a command line is public."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headrace import environment
from headrace.http.bodies import MAX_BODY_BYTES
from headrace.http.local import listed
from headrace_gateway.networks import PRIVATE, PodNetworks

_API_SERVER = "KUBERNETES_SERVICE_HOST"
"""The kubelet sets it in every pod."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The gateway's configuration."""

    host: str
    port: int
    fd: int | None
    """An inherited listening socket; connections wait in its backlog during a restart."""
    metrics_host: str | None
    """Address of the port for metrics; None: that of the main one."""
    metrics_port: int | None
    """Metrics name the models of every tenant, so they are not public: they have their own port, or (None) are served
    on the main one if it listens on the loopback interface."""
    nats_url: str
    nats_user: str | None
    nats_password: str | None = field(repr=False)
    pod_networks: PodNetworks
    """Networks of replicas. A report with another address is ignored. If they are too narrow, replicas outside get no
    requests; if too wide, a tenant can make the gateway connect to addresses that are not pods (without learning
    anything by it)."""
    state_directory: Path | None
    """Directory of the last known routes, keys and replicas; None: a restart without NATS begins without them."""
    anonymous_namespace: str | None
    """Namespace that is served without a key while no key exists; None: a key is always required."""
    grace_seconds: float
    max_body_bytes: int
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    """Accepted without keys on the loopback interface, besides this machine (`headrace.http.local`)."""

    @classmethod
    def parse(cls, arguments: Sequence[str] | None, variables: Mapping[str, str] = os.environ) -> Settings:
        """Parse the command line and the environment; exits with 2 and the usage if they are invalid."""
        parser = argparse.ArgumentParser(
            prog="headrace-gateway", description="OpenAI-compatible gateway that wakes models at zero."
        )
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
        parser.add_argument("--port", type=int, default=8080, help="port to listen on (default 8080; 0: any)")
        parser.add_argument("--fd", type=int, help="take over this listening socket instead of --host and --port")
        parser.add_argument("--metrics-host", help="address to serve /metrics on (default: that of the main port)")
        parser.add_argument(
            "--metrics-port",
            type=int,
            help="port to serve /metrics on, for the scraper alone (default: the main port if it is this machine's"
            " only, else none: they name all tenants' models)",
        )
        parser.add_argument(
            "--nats-url",
            default=variables.get(environment.NATS_URL, "nats://127.0.0.1:4222"),
            help=f"the broker (default ${environment.NATS_URL}); user and password come from "
            f"${environment.NATS_USER} and ${environment.NATS_PASSWORD}",
        )
        parser.add_argument(
            "--pod-networks",
            default=variables.get(environment.POD_NETWORKS) or ",".join(PRIVATE),
            help=f"networks in which replicas are, in CIDR notation with commas (default ${environment.POD_NETWORKS},"
            " else the private ones of RFC 1918, RFC 6598 and RFC 4193)",
        )
        parser.add_argument("--state-directory", type=Path, help="where to keep the last known routes and replicas")
        parser.add_argument(
            "--anonymous-namespace", help="serve this namespace without a key for as long as there are no keys at all"
        )
        parser.add_argument(
            "--grace-seconds",
            type=float,
            default=30.0,
            help="after SIGTERM, how long running answers may take (default 30, as Kubernetes gives a pod)",
        )
        parser.add_argument(
            "--max-body-bytes",
            type=int,
            default=MAX_BODY_BYTES,
            help="largest request body; more is answered with 413 (default 4 MiB: the longest prompts are a tenth)",
        )
        parser.add_argument(
            "--allowed-host",
            action="append",
            metavar="NAME",
            help="while it serves this machine alone without keys, answer under this name too, besides localhost and IP"
            f" addresses; may be repeated (default ${environment.ALLOWED_HOSTS}, with commas between names)",
        )
        parser.add_argument(
            "--allowed-origin",
            action="append",
            metavar="ORIGIN",
            help="while it serves this machine alone without keys, answer web pages of this origin"
            " (https://chat.example) too, besides those of this machine; may be repeated"
            f" (default ${environment.ALLOWED_ORIGINS}, with commas between origins)",
        )
        given = parser.parse_args(arguments)
        try:
            networks = PodNetworks.of(given.pod_networks.split(","), variables.get(_API_SERVER, ""))
        except ValueError as error:
            parser.error(f"--pod-networks: {error}")
        return cls(
            host=given.host,
            port=given.port,
            fd=given.fd,
            metrics_host=given.metrics_host,
            metrics_port=given.metrics_port,
            nats_url=given.nats_url,
            nats_user=variables.get(environment.NATS_USER) or None,
            nats_password=variables.get(environment.NATS_PASSWORD) or None,
            pod_networks=networks,
            state_directory=given.state_directory,
            anonymous_namespace=given.anonymous_namespace,
            grace_seconds=given.grace_seconds,
            max_body_bytes=given.max_body_bytes,
            allowed_hosts=tuple(given.allowed_host or listed(variables.get(environment.ALLOWED_HOSTS))),
            allowed_origins=tuple(given.allowed_origin or listed(variables.get(environment.ALLOWED_ORIGINS))),
        )
