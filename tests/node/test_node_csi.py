"""The CSI service: a real gRPC client, a real agent, and real mounts in a mount namespace of its own."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from node.node_processes import Agent, Csi

from headrace.agent.connection import AgentConnection
from headrace_node.csi.messages import TYPES

VOLUME = f"csi-{'a' * 64}"
"""As kubelets name inline volumes."""
OTHER = f"csi-{'b' * 64}"
POD = {
    "csi.storage.k8s.io/ephemeral": "true",
    "csi.storage.k8s.io/pod.namespace": "team-a",
    "csi.storage.k8s.io/pod.name": "chat-0",
    "csi.storage.k8s.io/pod.uid": "0f0f0f0f-0000-4000-8000-000000000001",
    "csi.storage.k8s.io/serviceAccount.name": "default",
}


@pytest.fixture
def agent(short_path: Path) -> Iterator[Agent]:
    with Agent(short_path / "a") as started:
        yield started


@pytest.fixture
def csi(agent: Agent, short_path: Path) -> Iterator[Csi]:
    with Csi(agent.admin_socket.parent, short_path) as started:
        yield started


def publish(
    csi: Csi, volume: str = VOLUME, *, target: Path | None = None, context: Mapping[str, str] | None = None
) -> Path:
    """Publish a volume as a kubelet does, which makes the parent of the target; return the target."""
    target = target or csi.pods / volume / "mount"
    target.parent.mkdir(exist_ok=True)
    entries = [{"key": key, "value": value} for key, value in {**POD, **(context or {})}.items()]
    request = TYPES["NodePublishVolumeRequest"](
        volume_id=volume, target_path=str(target), volume_capability={"mount": {}}, volume_context=entries
    )
    csi.call("csi.v1.Node/NodePublishVolume", request)
    return target


def unpublish(csi: Csi, target: Path, volume: str = VOLUME) -> None:
    request = TYPES["NodeUnpublishVolumeRequest"](volume_id=volume, target_path=str(target))
    csi.call("csi.v1.Node/NodeUnpublishVolume", request)


def tenant_at(csi: Csi, target: Path) -> str:
    """Return the tenant of the socket in a volume, as a pod finds it."""
    link = csi.pods / "s"  # a short path: that of a socket has at most 107 bytes
    link.unlink(missing_ok=True)
    link.symlink_to(csi.seen(target))
    connection = AgentConnection(link / "agent.sock")
    connection.close()
    return connection.tenant


def status_of(caught: pytest.ExceptionInfo[grpc.RpcError]) -> tuple[Any, str]:
    error: Any = caught.value
    return error.code(), error.details()


def test_identity_when_asked_then_names_driver_and_is_ready(csi: Csi) -> None:
    info = csi.call("csi.v1.Identity/GetPluginInfo", response="GetPluginInfoResponse")
    probe = csi.call("csi.v1.Identity/Probe", response="ProbeResponse")
    node = csi.call("csi.v1.Node/NodeGetInfo", response="NodeGetInfoResponse")
    assert (info.name, bool(info.vendor_version)) == ("node.headrace.dev", True)
    assert probe.ready.value
    assert node.node_id == "node-1"
    assert csi.call("csi.v1.Identity/GetPluginCapabilities") == TYPES["Empty"]()
    assert csi.call("csi.v1.Node/NodeGetCapabilities") == TYPES["Empty"]()


def test_registration_when_kubelet_asks_then_gets_endpoint(csi: Csi) -> None:
    info = csi.call("pluginregistration.Registration/GetInfo", response="PluginInfo")
    assert (info.type, info.name, info.endpoint) == ("CSIPlugin", "node.headrace.dev", str(csi.socket))
    assert list(info.supported_versions) == ["1.0.0"]


def test_registration_when_kubelet_refuses_then_exits(csi: Csi) -> None:
    status = TYPES["RegistrationStatus"](plugin_registered=False, error="no such endpoint")
    csi.call("pluginregistration.Registration/NotifyRegistrationStatus", status)
    assert csi.process.wait(10) == 1


def test_volume_when_published_then_pod_reaches_its_tenant(csi: Csi) -> None:
    target = publish(csi)
    assert tenant_at(csi, target) == "team-a"
    assert not (target / "agent.sock").exists(), "the mount is in the service's namespace alone"


def test_volume_when_published_then_pod_cannot_write(csi: Csi) -> None:
    target = publish(csi)
    with pytest.raises(OSError, match="Read-only") as caught:
        (csi.seen(target) / "file").touch()
    assert caught.value.errno == errno.EROFS


def test_volume_when_published_twice_then_mounted_once(csi: Csi) -> None:
    target = publish(csi)
    assert publish(csi) == target
    mounts = csi.seen(Path("/proc/self/mountinfo")).parent.parent / str(csi.process.pid) / "mountinfo"
    assert mounts.read_text().count(f" {target} ") == 1


def test_volumes_when_of_two_namespaces_then_two_tenants(csi: Csi) -> None:
    mine, theirs = publish(csi), publish(csi, OTHER, context={"csi.storage.k8s.io/pod.namespace": "team-b"})
    assert (tenant_at(csi, mine), tenant_at(csi, theirs)) == ("team-a", "team-b")


def test_volume_when_unpublished_then_gone_and_repeatable(csi: Csi, agent: Agent) -> None:
    target = publish(csi)
    unpublish(csi, target)
    unpublish(csi, target)
    assert not csi.seen(target).exists()
    assert not list((agent.admin_socket.parent / "volumes").iterdir())


def test_volume_when_agent_is_killed_then_works_again(csi: Csi, agent: Agent) -> None:
    target = publish(csi)
    agent.stop(signal.SIGKILL)
    with Agent(agent.admin_socket.parent):
        assert tenant_at(csi, target) == "team-a"
        unpublish(csi, target)
        assert not csi.seen(target).exists()


def test_volume_when_service_is_restarted_then_can_be_ended(csi: Csi, agent: Agent) -> None:
    """A container's restart keeps the mounts of the node, but in a test each process has its own."""
    target = publish(csi)
    csi.stop(signal.SIGKILL)
    with Csi(agent.admin_socket.parent, csi.pods.parent) as again:
        publish(again)
        assert tenant_at(again, target) == "team-a"
        unpublish(again, target)


def test_requests_when_agent_is_absent_then_unavailable(csi: Csi, agent: Agent) -> None:
    target = publish(csi)
    agent.stop()
    for request in (lambda: publish(csi, OTHER), lambda: unpublish(csi, target)):
        with pytest.raises(grpc.RpcError) as caught:
            request()
        code, details = status_of(caught)
        assert code == grpc.StatusCode.UNAVAILABLE
        assert "node agent" in details


@pytest.mark.parametrize(
    ("context", "named"),
    [
        ({"csi.storage.k8s.io/ephemeral": "false"}, "ephemeral"),
        ({"csi.storage.k8s.io/pod.namespace": ""}, "pod.namespace"),
        ({"csi.storage.k8s.io/pod.uid": "../../etc"}, "pod.uid"),
        ({"size": "1Gi"}, "unknown attribute 'size'"),
    ],
)
def test_publish_when_context_is_wrong_then_refused(csi: Csi, context: dict[str, str], named: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        publish(csi, context=context)
    code, details = status_of(caught)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert named in details


@pytest.mark.parametrize("path", ["/etc", "{pods}/../x", "relative", ""])
def test_publish_when_target_is_elsewhere_then_refused(csi: Csi, path: str) -> None:
    request = TYPES["NodeUnpublishVolumeRequest"](volume_id=VOLUME, target_path=path.format(pods=csi.pods))
    with pytest.raises(grpc.RpcError) as caught:
        csi.call("csi.v1.Node/NodeUnpublishVolume", request)
    code, details = status_of(caught)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "target_path" in details


@pytest.mark.parametrize("volume", ["", "../x", "a/b", ".hidden", "x" * 129])
def test_publish_when_volume_id_is_no_name_then_refused(csi: Csi, volume: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        publish(csi, volume, target=csi.pods / "p" / "mount")
    assert status_of(caught)[0] == grpc.StatusCode.INVALID_ARGUMENT


def test_publish_when_a_block_device_is_asked_for_then_refused(csi: Csi) -> None:
    request = TYPES["NodePublishVolumeRequest"](
        volume_id=VOLUME, target_path=str(csi.pods / "d"), volume_capability={"block": {}}
    )
    with pytest.raises(grpc.RpcError) as caught:
        csi.call("csi.v1.Node/NodePublishVolume", request)
    assert status_of(caught)[0] == grpc.StatusCode.INVALID_ARGUMENT


def test_service_when_stopped_then_driver_is_unregistered(csi: Csi) -> None:
    assert csi.stop() == 0
    assert not csi.registration_socket.exists()


def test_sockets_when_made_then_only_root_reaches_them(csi: Csi, agent: Agent) -> None:
    publish(csi)
    volumes = agent.admin_socket.parent / "volumes"
    assert {path.stat().st_mode & 0o777 for path in (agent.admin_socket, csi.socket)} == {0o600}
    assert volumes.stat().st_mode & 0o777 == 0o700
    assert (volumes / VOLUME).stat().st_mode & 0o777 == 0o755
    assert (volumes / VOLUME / "agent.sock").stat().st_mode & 0o777 == 0o666
