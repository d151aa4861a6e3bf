"""The settings of the node agent and of its CSI service."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.agent.admin import SOCKET_NAME as ADMIN_SOCKET
from headrace.store.keys import ObjectClass

SOCKET_DIRECTORY = Path("/run/headrace-node")
"""On a file system that a reboot clears, as it does the pods."""
KEEPER_SOCKET = "keeper.sock"
DEFAULT_STORE_BYTES = 1 << 30
_TENANT_SHARE, _POOL_SHARE = 2, 8
"""Of the store: the default quota of a tenant, and the default of ready segments."""
NODE_NAME = "NODE_NAME"
"""Variable with the node's name, from the downward API."""
_KUBELET = Path("/var/lib/kubelet")
_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Of `headrace-node agent`."""

    socket_directory: Path
    store_bytes: int
    tenant_bytes: int
    tenants: Mapping[str, int]
    """Quotas of single tenants, in bytes."""
    class_bytes: Mapping[ObjectClass, int]
    pool_bytes: int
    huge_pages: bool
    keeper: bool
    kept_objects: Path | None
    """The list of objects to pin; None: only clients pin."""
    bus_host: str
    bus_port: int
    metrics_host: str
    metrics_port: int | None

    @property
    def admin_socket(self) -> Path:
        """The socket of `headrace.agent.admin`."""
        return self.socket_directory / ADMIN_SOCKET

    @property
    def lock(self) -> Path:
        """The file that one agent locks."""
        return self.socket_directory / "agent.lock"

    @property
    def keeper_socket(self) -> Path:
        """The socket of the keeper, if one runs."""
        return self.socket_directory / KEEPER_SOCKET


@dataclass(frozen=True, slots=True)
class KeeperSettings:
    """Of `headrace-node keeper`."""

    socket: Path

    @property
    def lock(self) -> Path:
        """The file that one keeper locks."""
        return self.socket.with_name("keeper.lock")


@dataclass(frozen=True, slots=True)
class CsiSettings:
    """Of `headrace-node csi`."""

    admin_socket: Path
    csi_socket: Path
    kubelet_endpoint: Path
    registration_directory: Path
    pods_directory: Path
    node: str

    @property
    def lock(self) -> Path:
        """The file that one CSI service locks."""
        return self.admin_socket.with_name("csi.lock")


Settings = AgentSettings | KeeperSettings | CsiSettings


def parse(arguments: Sequence[str] | None, variables: Mapping[str, str] = os.environ) -> Settings:
    """Parse the command line; exits with 2 and the usage if it is invalid."""
    parser = argparse.ArgumentParser(prog="headrace-node", description="Node agent: objects in shared memory for pods.")
    programs = parser.add_subparsers(dest="program", required=True)
    _add_agent(programs.add_parser("agent", help="run the agent of this node"))
    _add_csi(programs.add_parser("csi", help="run the CSI service that mounts the agent's socket into pods"), variables)
    keeper = programs.add_parser("keeper", help="hold the agent's objects while it restarts")
    _add_socket_directory(keeper)
    given = parser.parse_args(arguments)
    if given.program == "keeper":
        return KeeperSettings(given.socket_directory / KEEPER_SOCKET)
    if given.program == "agent":
        quotas = dict(given.tenant_bytes)
        return AgentSettings(
            socket_directory=given.socket_directory,
            store_bytes=given.store_bytes,
            tenant_bytes=quotas.pop("", given.store_bytes // _TENANT_SHARE),
            tenants=quotas,
            class_bytes=dict(given.class_bytes),
            pool_bytes=given.store_bytes // _POOL_SHARE if given.pool_bytes is None else given.pool_bytes,
            huge_pages=given.huge_pages,
            keeper=given.keeper,
            kept_objects=given.kept_objects,
            bus_host=given.bus_host,
            bus_port=given.bus_port,
            metrics_host=given.metrics_host,
            metrics_port=given.metrics_port,
        )
    return CsiSettings(
        admin_socket=given.agent_directory / ADMIN_SOCKET,
        csi_socket=given.csi_socket,
        kubelet_endpoint=given.kubelet_endpoint,
        registration_directory=given.registration_directory,
        pods_directory=given.pods_directory,
        node=given.node,
    )


def _add_socket_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--socket-directory",
        type=Path,
        default=SOCKET_DIRECTORY,
        help="directory of the sockets of agent, keeper and pods, which must outlive the agent"
        f" (default {SOCKET_DIRECTORY})",
    )


def _add_agent(parser: argparse.ArgumentParser) -> None:
    _add_socket_directory(parser)
    parser.add_argument(
        "--store-bytes",
        type=_bytes,
        default=DEFAULT_STORE_BYTES,
        metavar="BYTES",
        help="memory for objects, in bytes or as 512Mi or 8Gi (default 1Gi). With less than the objects in use, puts"
        " fail; more than the node can spare takes memory from its pods",
    )
    parser.add_argument(
        "--tenant-bytes",
        type=_tenant_bytes,
        action="append",
        default=[],
        metavar="[TENANT=]BYTES",
        help="quota of a tenant, or of each without one of its own; may be repeated (default: half of the store, so"
        " that no tenant can fill it alone)",
    )
    parser.add_argument(
        "--class-bytes",
        type=_class_bytes,
        action="append",
        default=[],
        metavar="CLASS=BYTES",
        help=f"quota of a class of objects ({', '.join(ObjectClass)}) of all tenants together; may be repeated"
        " (default: the whole store)",
    )
    parser.add_argument(
        "--pool-bytes",
        type=_bytes,
        metavar="BYTES",
        help="memory that is kept ready for the next objects once there were some, part of the store (default: an"
        " eighth of it). With less, large puts are slower; with more, it is resident without being used",
    )
    parser.add_argument(
        "--keeper",
        action="store_true",
        help="let `headrace-node keeper`, in the same directory, hold the objects, so that a restart loses none",
    )
    parser.add_argument(
        "--kept-objects",
        type=Path,
        metavar="FILE",
        help="list of weights to exempt from eviction, NAMESPACE/NAME in each line; those that are no longer in it are"
        " removed. It may change, and need not exist yet (default: none)",
    )
    parser.add_argument(
        "--huge-pages",
        action="store_true",
        help="use the node's reserved huge pages of 2 MiB (vm.nr_hugepages), if it has any; transparent huge pages"
        " are used without it, if the node offers them for shared memory",
    )
    parser.add_argument(
        "--bus-host",
        default="127.0.0.1",
        help="address at which processes of the node reach the descriptor bus (default 127.0.0.1; in a pod, its own)",
    )
    parser.add_argument("--bus-port", type=int, default=0, help="port of the descriptor bus (default: any free one)")
    parser.add_argument("--metrics-host", default="127.0.0.1", help="address to serve /metrics on (default 127.0.0.1)")
    parser.add_argument("--metrics-port", type=int, help="port to serve /metrics and /healthz on (default: none)")


def _add_csi(parser: argparse.ArgumentParser, variables: Mapping[str, str]) -> None:
    parser.add_argument(
        "--agent-directory",
        type=Path,
        default=SOCKET_DIRECTORY,
        help=f"the agent's --socket-directory (default {SOCKET_DIRECTORY})",
    )
    parser.add_argument("--csi-socket", type=Path, default=Path("/csi/csi.sock"), help="socket for CSI requests")
    parser.add_argument(
        "--kubelet-endpoint",
        type=Path,
        default=_KUBELET / "plugins/node.headrace.dev/csi.sock",
        help="path of --csi-socket as the kubelet sees it",
    )
    parser.add_argument(
        "--registration-directory",
        type=Path,
        default=Path("/registration"),
        help="the kubelet's directory plugins_registry",
    )
    parser.add_argument(
        "--pods-directory",
        type=Path,
        default=_KUBELET / "pods",
        help=f"the kubelet's directory of pods, at the same path as for the kubelet (default {_KUBELET}/pods)",
    )
    node = variables.get(NODE_NAME)
    parser.add_argument("--node", default=node, required=not node, help=f"name of the node (default ${NODE_NAME})")


def _tenant_bytes(text: str) -> tuple[str, int]:
    """Return a tenant, empty for the others, and its quota."""
    name, _, number = text.rpartition("=")
    return name, _bytes(number)


def _class_bytes(text: str) -> tuple[ObjectClass, int]:
    name, equals, number = text.partition("=")
    if not equals or name not in set(ObjectClass):
        raise argparse.ArgumentTypeError(f"{text!r} is not CLASS=BYTES; the classes are {', '.join(ObjectClass)}")
    return ObjectClass(name), _bytes(number)


def _bytes(text: str) -> int:
    """Return a number of bytes: digits, with one of Kubernetes' binary suffixes or none."""
    number, unit = (text[:-2], _UNITS[text[-2:]]) if text[-2:] in _UNITS else (text, 1)
    if not number.isascii() or not number.isdecimal() or int(number) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes, such as 1073741824 or 1Gi")
    return int(number) * unit
