"""The NATS server's configuration: who may say what, and how much it may keep. Pure.

One user per role. A role's replies come to an inbox of its own (`headrace.events.subjects.inbox`), so that no role
reads another's answers. A runtime needs no replies, and has no inbox.

The gateway is trusted a little more than its list says: whoever may make a consumer of a bucket chooses the subject to
which the broker delivers that bucket's entries. A runtime, which executes a tenant's model, may make none.
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
"""Routes and keys are a few KiB each; this is what a fault could fill of the disk."""
MAX_MEMORY_STORE_BYTES = 32 * 1024 * 1024
LOG_BYTES = 4 * 1024 * 1024
LOG_FILES = 2
MAX_CONNECTIONS = 4096
"""Gateways and loops, and two connections for each replica: a file descriptor and some 20 KiB each."""

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""A DNS label: what may name a namespace."""
RECONCILER = "reconciler"
GATEWAY = "gateway"
BROKER = "broker"


@dataclass(frozen=True, slots=True)
class Credentials:
    """How a role logs in."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Permissions:
    """The subjects that a role may publish and subscribe to; all others are refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Users:
    """Everybody who may log in."""

    reconciler: Credentials
    gateway: Credentials
    runtimes: Mapping[str, Credentials] = field(default_factory=dict)
    """By namespace."""
    broker: Credentials | None = None
    """Who admits namespaces, in a cluster; in local mode the supervisor does, by writing the configuration."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where the server listens, and where it keeps what."""

    name: str
    port: int
    store: Path
    host: str = LOOPBACK
    monitoring_port: int | None = None
    """Where it tells anybody how it is (HTTP): `/healthz`, `/varz`; no passwords, but who is connected."""
    log: Path | None = None
    """None: standard error, where a container's log comes from."""


def runtime_user(namespace: str) -> str:
    """Return the user name of the runtimes of a namespace."""
    return f"runtime-{namespace}"


def reconciler_permissions() -> Permissions:
    """Return what the reconcile loop may do: it owns every subject of ours and makes the buckets."""
    own = ("headrace.>", "$KV.>")
    return Permissions((*own, "$JS.API.>", "$JS.FC.>"), (*own, f"{subjects.inbox(RECONCILER)}.>"))


def gateway_permissions() -> Permissions:
    """Return what a gateway may do: tell demand and admissions, hear replicas, read buckets, write its presence."""
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
            subjects.ALL_BROUGHT,
            subjects.ALL_ADMISSIONS,
            subjects.ALL_PROGRESS,
            subjects.SOLICIT,
            *(f"$KV.{bucket}.>" for bucket in buckets),
            f"{subjects.inbox(GATEWAY)}.>",
        ),
    )


def runtime_permissions(namespace: str) -> Permissions:
    """Return what the runtimes and fetch children of a namespace may do: speak of themselves."""
    if not LABEL.fullmatch(namespace):
        raise ValueError(f"{namespace!r} is no namespace: as part of a subject it could open others")
    return Permissions(
        publish=(subjects.replica(namespace, "*", "*"), subjects.progress(namespace, "*")),
        subscribe=(subjects.admission(namespace, "*", "*"), subjects.SOLICIT),
    )


def broker_permissions() -> Permissions:
    """Return what the broker's own client may do: be told the namespaces, and answer the loop that tells them."""
    return Permissions((f"{subjects.inbox(RECONCILER)}.>",), (subjects.ADMIT,))


def render(server: Server, users: Users) -> str:
    """Return the configuration file. JSON is a part of NATS's own syntax, and quotes every value.

    It lacks JSON's escapes by number: letters beyond ASCII, of a path for example, stand as they are.
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
    """Return the requests by which a client reads and watches a bucket (the broker's API of the stream beneath it)."""
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
