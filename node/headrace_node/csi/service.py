"""The gRPC services: CSI Identity and Node for the kubelet's mounts, and Registration for its plugin watcher.

The kubelet finds the registration socket in its `plugins_registry` directory, requests the driver's name and endpoint
there, and then uses the endpoint. Both sockets belong to one server.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import grpc

from headrace.api.vocabulary import NODE_DRIVER
from headrace.errors import HeadraceError
from headrace_node.csi.messages import PublishRequest, RegistrationStatus, UnpublishRequest, encode
from headrace_node.csi.volumes import InvalidVolume, Volumes

log = logging.getLogger(__name__)

CSI_VERSIONS = ("1.0.0",)
"""Versions of the CSI specification, as the kubelet's registration names them."""
WORKERS = 4
MAX_REQUESTS = 32
"""Concurrent requests; the kubelet repeats one that is refused with RESOURCE_EXHAUSTED."""
MAX_MESSAGE_BYTES = 64 * 1024
"""A request has some paths and names."""

_Request = TypeVar("_Request")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The sockets of the service.

    Attributes:
        csi: where the kubelet sends CSI requests.
        registration: in the kubelet's directory `plugins_registry`.
        csi_of_kubelet: the path of `csi` as the kubelet sees it, outside of this container.
    """

    csi: Path
    registration: Path
    csi_of_kubelet: Path


def serve(volumes: Volumes, endpoints: Endpoints, node: str, on_refused: Callable[[str], None]) -> grpc.Server:
    """Return the started server.

    Args:
        volumes: carries out the requests.
        endpoints: where to listen; files of an earlier process there are replaced.
        node: the node's name.
        on_refused: called with the cause if the kubelet does not accept the driver.

    Raises OSError if a socket cannot be created.
    """
    server = grpc.server(
        ThreadPoolExecutor(WORKERS, thread_name_prefix="csi"),
        maximum_concurrent_rpcs=MAX_REQUESTS,
        options=(("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),),
    )
    methods = _csi(volumes, node) | _registration(endpoints.csi_of_kubelet, on_refused)
    for service, handlers in methods.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    for path in (endpoints.csi, endpoints.registration):
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise OSError(0, f"cannot listen: {error}", str(path)) from error
        path.chmod(0o600)
    server.start()
    return server


Handler: TypeAlias = "grpc.RpcMethodHandler[Any, bytes]"
Handlers: TypeAlias = dict[str, Handler]


def _csi(volumes: Volumes, node: str) -> dict[str, Handlers]:
    return {
        "csi.v1.Identity": {
            "GetPluginInfo": _fixed(
                encode("GetPluginInfoResponse", name=NODE_DRIVER, vendor_version=version("headrace"))
            ),
            "GetPluginCapabilities": _fixed(b""),
            "Probe": _fixed(encode("ProbeResponse", ready={"value": True})),
        },
        "csi.v1.Node": {
            "NodeGetInfo": _fixed(encode("NodeGetInfoResponse", node_id=node)),
            "NodeGetCapabilities": _fixed(b""),
            "NodePublishVolume": _handler(volumes.publish, PublishRequest.decode),
            "NodeUnpublishVolume": _handler(volumes.unpublish, UnpublishRequest.decode),
        },
    }


def _registration(endpoint: Path, on_refused: Callable[[str], None]) -> dict[str, Handlers]:
    def notified(status: RegistrationStatus) -> None:
        if status.registered:
            log.info("the kubelet has registered the driver %s", NODE_DRIVER)
        else:
            on_refused(status.error)

    info = encode(
        "PluginInfo", type="CSIPlugin", name=NODE_DRIVER, endpoint=str(endpoint), supported_versions=CSI_VERSIONS
    )
    return {
        "pluginregistration.Registration": {
            "GetInfo": _fixed(info),
            "NotifyRegistrationStatus": _handler(notified, RegistrationStatus.decode),
        }
    }


def _fixed(response: bytes) -> Handler:
    """Return a method whose response is always the same; bytes are sent as they are."""
    return grpc.unary_unary_rpc_method_handler(lambda _request, _context: response)


def _handler(act: Callable[[_Request], None], decode: Callable[[bytes], _Request]) -> Handler:
    """Return a method with an empty response, which reports errors by their gRPC status."""

    def handle(request: _Request, context: grpc.ServicerContext) -> bytes:
        try:
            act(request)
        except InvalidVolume as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except HeadraceError as error:
            log.warning("%s: %s", type(request).__name__, error)
            context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        except OSError as error:
            log.warning("%s: %s", type(request).__name__, error)
            context.abort(grpc.StatusCode.INTERNAL, f"{error.strerror}: {error.filename}")
        return b""

    return grpc.unary_unary_rpc_method_handler(handle, request_deserializer=decode)
