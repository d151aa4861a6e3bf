"""Configuration of the NATS server: users, permissions and storage limits. Pure.

Each role has a user. The replies to a role have their own inbox (`headrace.events.subjects.inbox`), so that no role
reads another's replies. A runtime needs no replies and has no inbox.

The gateway has more access than its list shows: a client that may create a consumer of a bucket chooses the subject to
which the broker delivers that bucket's entries. A runtime, which executes a tenant's model, may not create consumers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.events import subjects

LOOPBACK = "127.0.0.1"
MAX_FILE_STORE_BYTES = 256 * 1024 * 1024
"""Routes and keys have a few KiB each; this limits the disk space that a fault can fill."""
MAX_MEMORY_STORE_BYTES = 32 * 1024 * 1024
LOG_BYTES = 4 * 1024 * 1024
LOG_FILES = 2
MAX_CONNECTIONS = 4096
"""For gateways, reconcile loops, and two connections per replica, with a file descriptor and some 20 KiB each."""

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""A DNS label, the form of a namespace's name."""
RECONCILER = "reconciler"
GATEWAY = "gateway"
BROKER = "broker"


@dataclass(frozen=True, slots=True)
class Credentials:
    """User and password of a role."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Permissions:
    """The subjects that a role may publish on and subscribe to; all others are rejected."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Users:
    """All users."""

    reconciler: Credentials
    gateway: Credentials
    runtimes: Mapping[str, Credentials] = field(default_factory=dict)
    """By namespace."""
    broker: Credentials | None = None
    """The broker's own client, which admits namespaces in a cluster; None in local mode, where the supervisor writes
    the configuration."""


@dataclass(frozen=True, slots=True)
class Server:
    """Addresses and files of the server."""

    name: str
    port: int
    store: Path
    host: str = LOOPBACK
    monitoring_port: int | None = None
    """Port of `/healthz` and `/varz` (HTTP, without authentication): connected clients, no passwords."""
    log: Path | None = None
    """None: standard error, the log of a container."""


def runtime_user(namespace: str) -> str:
    """Return the user name of the runtimes of a namespace."""
    return f"runtime-{namespace}"


def reconciler_permissions() -> Permissions:
    """Return the permissions of the reconcile loop: all subjects of headrace, and the creation of buckets."""
    own = ("headrace.>", "$KV.>")
    return Permissions((*own, "$JS.API.>", "$JS.FC.>"), (*own, f"{subjects.inbox(RECONCILER)}.>"))


def gateway_permissions() -> Permissions:
    """Return the permissions of a gateway: publish demand, admissions and presence, receive reports, read buckets."""
    buckets = (subjects.ROUTES_BUCKET, subjects.KEYS_BUCKET, subjects.GATEWAYS_BUCKET)
    return Permissions(
        publish=(
            subjects.ALL_DEMAND,
            subjects.ALL_ADMISSIONS,
            subjects.SOLICIT,
            subjects.ALL_PRESENCE,
            *(subject for bucket in buckets for subject in _reading(bucket)),
        ),
        subscribe=(
            subjects.ALL_REPLICAS,
            subjects.ALL_CONTAINER_REPORTS,
            subjects.ALL_ADMISSIONS,
            subjects.ALL_PROGRESS,
            subjects.SOLICIT,
            *(f"$KV.{bucket}.>" for bucket in buckets),
            f"{subjects.inbox(GATEWAY)}.>",
        ),
    )


def runtime_permissions(namespace: str) -> Permissions:
    """Return the permissions of a namespace's runtimes and fetch Jobs: publish reports and progress of their own."""
    if not LABEL.fullmatch(namespace):
        raise ValueError(f"{namespace!r} is not a namespace: in a subject it could be a wildcard")
    return Permissions(
        publish=(subjects.replica(namespace, "*", "*"), subjects.progress(namespace, "*")),
        subscribe=(subjects.admission(namespace, "*", "*"), subjects.launch(namespace, "*"), subjects.SOLICIT),
    )


def broker_permissions() -> Permissions:
    """Return the permissions of the broker's own client: receive the set of namespaces, and reply to the loop."""
    return Permissions((f"{subjects.inbox(RECONCILER)}.>",), (subjects.ADMIT,))


def render(server: Server, users: Users) -> str:
    """Return the configuration file. JSON is a subset of NATS's syntax, and quotes every value.

    NATS does not support JSON's numeric escapes, so non-ASCII characters, in a path for example, are not escaped.
    """
    members = [
        (users.reconciler, reconciler_permissions()),
        (users.gateway, gateway_permissions()),
        *([(users.broker, broker_permissions())] if users.broker is not None else []),
        *((credentials, runtime_permissions(namespace)) for namespace, credentials in sorted(users.runtimes.items())),
    ]
    configuration: dict[str, Any] = {
        "server_name": server.name,
        "host": server.host,
        "port": server.port,
        "max_connections": MAX_CONNECTIONS,
        "jetstream": {
            "store_dir": str(server.store),
            "max_file_store": MAX_FILE_STORE_BYTES,
            "max_memory_store": MAX_MEMORY_STORE_BYTES,
        },
        "authorization": {"users": [_user(credentials, permissions) for credentials, permissions in members]},
    }
    if server.monitoring_port is not None:
        configuration["http_port"] = server.monitoring_port
    if server.log is not None:
        configuration |= {"logfile": str(server.log), "logfile_size_limit": LOG_BYTES, "logfile_max_num": LOG_FILES}
    return json.dumps(configuration, indent=1, ensure_ascii=False) + "\n"


def _user(credentials: Credentials, permissions: Permissions) -> dict[str, Any]:
    return {
        "user": credentials.user,
        "password": credentials.password,
        "permissions": {
            "publish": {"allow": list(permissions.publish)},
            "subscribe": {"allow": list(permissions.subscribe)},
        },
    }


def _reading(bucket: str) -> tuple[str, ...]:
    """Return the subjects for reading and watching a bucket: the JetStream API of the bucket's stream."""
    stream = f"KV_{bucket}"
    return (
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.STREAM.MSG.GET.{stream}",
        f"$JS.API.DIRECT.GET.{stream}",
        f"$JS.API.DIRECT.GET.{stream}.>",
        f"$JS.API.CONSUMER.CREATE.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}.>",
        f"$JS.API.CONSUMER.INFO.{stream}.*",
        f"$JS.API.CONSUMER.DELETE.{stream}.*",
        f"$JS.FC.{stream}.>",
    )
