"""The redirect in the kernel: loaders, capabilities, counts, and each measured pitfall."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bus.bus_world import NO_EBPF, BusWorld, node, open_sockmap

from headrace.bus.client import INSERT, JOIN_TCP
from headrace.bus.endpoint import Endpoint
from headrace.bus.errors import EbpfUnavailable, JoinRefused, PeerUnreachable
from headrace.bus.frames import FRAME_BYTES, ErrorCode, Frame, FrameBuffer, Kind
from headrace.bus.transport import StreamTransport
from headrace_node.bpf import bcc, elf
from headrace_node.sockmap import AGENT, LOADERS, EndpointCounts, Sockmap

SOON = 5.0
DEBIAN_PACKAGES = "/usr/lib/python3/dist-packages"
HEADERS = sorted(Path("/usr/src").glob("linux-headers-*"), key=lambda path: path.name, reverse=True)
"""Debian splits the headers of a kernel into a common folder and one per architecture, which BCC wants in one."""
UPDATE = Kind.UPDATE


@pytest.fixture
def world(tmp_path: Path) -> Iterator[BusWorld]:
    with node(tmp_path) as started:
        yield started


@pytest.fixture
def one(world: BusWorld) -> Endpoint:
    return world.join("sockmap")


@pytest.fixture
def two(world: BusWorld) -> Endpoint:
    return world.join("sockmap")


def stream(endpoint: Endpoint) -> StreamTransport:
    assert isinstance(endpoint.transport, StreamTransport)
    return endpoint.transport


def counts(world: BusWorld, endpoint_id: int) -> EndpointCounts:
    return world.do(lambda: next(each for each in world.bus.counts() if each.id == endpoint_id))


def receive(endpoint: Endpoint) -> Frame:
    frame = endpoint.receive(SOON)
    assert frame is not None
    return frame


def test_frames_when_local_then_kernel_delivers(world: BusWorld, one: Endpoint, two: Endpoint) -> None:
    """The counter proves that no frame took the way through the agent."""
    for _ in range(5):
        one.send(two.id, UPDATE)
        two.ack(receive(two))
    one.wait_acked(two.id, 5, SOON)
    assert counts(world, one.id) == EndpointCounts(one.id, redirected=5, passed=0, forged=0, received=5)
    assert counts(world, two.id) == EndpointCounts(two.id, redirected=5, passed=0, forged=0, received=5)
    assert world.do(lambda: world.router.forwarded["sockmap"]) == 0


def test_two_frames_when_in_one_send_then_each_to_its_own(world: BusWorld, one: Endpoint, two: Endpoint) -> None:
    three = world.join("sockmap")
    frames = Frame(UPDATE, two.id, one.id, 1).encode() + Frame(UPDATE, three.id, one.id, 1).encode()
    assert stream(one).socket.send(frames) == 2 * FRAME_BYTES
    assert receive(two).dst == two.id
    assert receive(three).dst == three.id
    assert counts(world, one.id).redirected == 2


def test_five_sends_when_read_as_one_then_five_frames(one: Endpoint, two: Endpoint) -> None:
    for number in range(5):
        one.send(two.id, UPDATE, length=number)
    data = stream(two).socket.recv(65_536)
    assert [frame.length for frame in FrameBuffer().feed(data)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cut", [1, 4, 8, 63])
def test_frame_when_sent_in_parts_then_still_arrives(world: BusWorld, one: Endpoint, two: Endpoint, cut: int) -> None:
    """The first part is too short for the program, so the frame passes whole; the next one is aligned again."""
    data = Frame(UPDATE, two.id, one.id, 1).encode()
    stream(one).socket.send(data[:cut])
    stream(one).socket.send(data[cut:] + Frame(UPDATE, two.id, one.id, 2).encode())
    assert [receive(two).seq for _ in range(2)] == [1, 2], "in order, though the second may overtake the first"
    assert counts(world, one.id).redirected == 1
    assert world.do(lambda: world.router.forwarded["sockmap"]) >= 1


def test_socket_when_program_cannot_redirect_then_not_poisoned(world: BusWorld, one: Endpoint, two: Endpoint) -> None:
    """After one SK_DROP every send() would fail with EACCES; passing keeps the socket usable."""
    for unknown in (0, 1, two.id ^ 1):
        stream(one).socket.send(Frame(UPDATE, unknown, one.id).encode())
    one.send(two.id, UPDATE)
    assert receive(two).src == one.id
    assert counts(world, one.id).passed == 3


def test_receiver_when_it_never_reads_then_credits_bound(one: Endpoint, two: Endpoint) -> None:
    """The kernel accepts far more than any socket buffer (measured: a million frames); the credits do not."""
    raw, frame = stream(one).socket, Frame(UPDATE, two.id, one.id, 1).encode()
    accepted = sum(raw.send(frame) for _ in range(20_000))
    assert accepted == 20_000 * FRAME_BYTES
    assert two.receive(SOON) is not None
    while two.receive(0.1) is not None:
        pass
    assert two.counts.received == 1
    assert two.counts.refused == 19_999


def test_endpoint_when_dead_then_agent_keeps_no_copy(world: BusWorld, one: Endpoint, two: Endpoint) -> None:
    """With a copy of the descriptor in the agent, the kernel would go on delivering to nobody."""
    dead = two.id
    two.close()  # the kernel removes the socket from the map; no need to wait for the agent
    one.send(dead, UPDATE)
    with pytest.raises(PeerUnreachable):
        one.wait_acked(dead, 1, SOON)
    assert counts(world, one.id).redirected == 0


def test_entries_when_endpoints_close_then_none_is_left(world: BusWorld) -> None:
    for _ in range(20):
        world.join("sockmap").close()
    deadline = time.monotonic() + SOON
    while world.do(lambda: len(world.router.ports)):
        assert time.monotonic() < deadline
    assert world.sockmap is not None
    left = {name: len(list(each.keys())) for name, each in world.sockmap._maps.items()}
    assert left == {"endpoints": 1, "sources": 1, "routes": 0, "counters": 1}, "those of the agent's own socket"


def test_endpoint_when_started_amid_frames_then_in_order(world: BusWorld) -> None:
    """Frames in the activator's queue, in the agent's socket and in the kernel: the path changes while they flow."""
    senders = [world.join("sockmap") for _ in range(4)]
    at_zero = world.do(lambda: world.router.reserve("a"))

    def send(endpoint: Endpoint) -> None:
        for number in range(200):
            endpoint.send(at_zero, UPDATE, length=number, timeout=30)

    threads = [threading.Thread(target=send, args=(each,)) for each in senders]
    for thread in threads:
        thread.start()
    started = world.join("sockmap", reserved=at_zero)
    frames = [receive(started) for _ in range(800)]
    for thread in threads:
        thread.join()
    for each in senders:
        assert [frame.length for frame in frames if frame.src == each.id] == list(range(200))
    assert counts(world, at_zero).received >= 800 - 4 * started.window


def test_source_when_forged_then_kernel_counts_it(world: BusWorld, one: Endpoint, two: Endpoint) -> None:
    stream(one).socket.send(Frame(UPDATE, two.id, two.id ^ 1, 1).encode())
    assert two.receive(0.2) is None
    assert counts(world, one.id).forged == 1
    assert world.do(lambda: world.router.errors[ErrorCode.FORGED]) == 1


def test_frame_when_for_unix_endpoint_then_agent_forwards(world: BusWorld, one: Endpoint) -> None:
    other = world.join("unix")
    one.send(other.id, UPDATE)
    other.ack(receive(other))
    one.wait_acked(other.id, 1, SOON)
    assert counts(world, one.id).passed == 1
    assert counts(world, AGENT).redirected == 1


def test_insert_when_socket_is_not_the_endpoints_then_refused(world: BusWorld, one: Endpoint) -> None:
    """Unconnected TCP (EOPNOTSUPP in the kernel), Unix sockets, files, and connections to other peers."""
    connection = world.connection()
    answer = connection.call(JOIN_TCP, {"sockmap": True}).body
    joined = Endpoint(StreamTransport((answer["host"], answer["port"]), bytes.fromhex(answer["token"])))
    pair = socket.socketpair()
    wrong = [socket.socket(), pair[0], socket.create_connection(world.address)]
    for each in wrong:
        with pytest.raises(JoinRefused):
            connection.call(INSERT, {"id": joined.id}, [each.fileno()])
    with Path("/dev/null").open() as file, pytest.raises(JoinRefused):
        connection.call(INSERT, {"id": joined.id}, [file.fileno()])
    connection.call(INSERT, {"id": joined.id}, [stream(joined).fileno()])
    one.send(joined.id, UPDATE)
    assert receive(joined).src == one.id
    for each in [*wrong, pair[1]]:
        each.close()
    joined.close()


def test_insert_when_id_is_anothers_then_refused(world: BusWorld, one: Endpoint, two: Endpoint) -> None:
    for id_ in (two.id, 1):
        with pytest.raises(JoinRefused, match="does not wait"):
            world.connection("b").call(INSERT, {"id": id_}, [stream(one).fileno()])


def test_join_when_token_is_guessed_or_reused_then_refused(world: BusWorld) -> None:
    answer = world.connection().call(JOIN_TCP, {}).body
    token = bytes.fromhex(answer["token"])
    with Endpoint(StreamTransport(world.address, token)):
        for each in (token, bytes(16)):
            with pytest.raises(JoinRefused):
                Endpoint(StreamTransport(world.address, each))


def test_agent_when_without_ebpf_then_join_says_so(tmp_path: Path) -> None:
    with BusWorld(tmp_path, None) as world, pytest.raises(EbpfUnavailable, match="no eBPF"):
        world.join("sockmap")


def test_loaders_when_compiled_by_bcc_then_same_behaviour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_sockmap().close()
    if not Path(DEBIAN_PACKAGES, "bcc").is_dir() or not HEADERS:
        pytest.skip(NO_EBPF)  # by BCC: no python3-bpfcc, or no kernel headers
    for folder in HEADERS:
        subprocess.run(["cp", "-as", folder / "include", folder / "arch", tmp_path], check=True)
    monkeypatch.setattr(sys, "path", [*sys.path, DEBIAN_PACKAGES])
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tmp_path))
    with BusWorld(tmp_path, Sockmap(LOADERS["bcc"])) as world:
        one, two = world.join("sockmap"), world.join("sockmap")
        one.send(two.id, UPDATE)
        assert receive(two).src == one.id
        assert counts(world, one.id).redirected == 1


def test_bcc_when_not_installed_then_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bcc", None)
    with pytest.raises(EbpfUnavailable, match="python3-bpfcc"):
        bcc.load({})


@pytest.mark.parametrize("content", [b"", b"\x7fELF\x02\x01" + bytes(58), b"\0" * 4096])
def test_object_when_damaged_then_error_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.o"
    path.write_bytes(content)
    with pytest.raises(EbpfUnavailable, match=r"x\.o is unusable"):
        elf.load({}, path)


def test_object_when_source_changes_then_compiled_again() -> None:
    """`make bpf` compiles it."""
    section = next(each for each in elf._sections(elf.OBJECT.read_bytes()) if each.name == b"source")
    assert section.data.rstrip(b"\0").decode() == hashlib.sha256(bcc.SOURCE.read_bytes()).hexdigest()


LOAD = "from headrace_node.sockmap import Sockmap; Sockmap().close(); print('loaded')"


def with_capabilities(kept: str) -> subprocess.CompletedProcess[str]:
    bounding = f"-all{kept}"
    command = ["setpriv", f"--bounding-set={bounding}", f"--inh-caps={bounding}", sys.executable, "-c", LOAD]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason=NO_EBPF)
def test_capabilities_when_only_bpf_and_net_admin_then_enough() -> None:
    open_sockmap().close()
    done = with_capabilities(",+bpf,+net_admin")
    assert done.stdout == "loaded\n", done.stderr


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason=NO_EBPF)
@pytest.mark.parametrize("kept", ["", ",+bpf", ",+net_admin"])
def test_capabilities_when_one_is_missing_then_error_names_both(kept: str) -> None:
    open_sockmap().close()
    done = with_capabilities(kept)
    assert "EbpfUnavailable" in done.stderr
    assert "CAP_BPF and CAP_NET_ADMIN" in done.stderr
