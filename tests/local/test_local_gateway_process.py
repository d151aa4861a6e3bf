"""The gateway's listening socket: which port, and what outlives a gateway."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from headrace.errors import CannotStart
from headrace.local.gateway_process import DEFAULT_PORT, endpoint_of, listen


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_listen_without_a_port_takes_the_next_free_one() -> None:
    with listen("127.0.0.1", None) as first, listen("127.0.0.1", None) as second:
        ports = (first.getsockname()[1], second.getsockname()[1])
    assert DEFAULT_PORT <= ports[0] < ports[1]


def test_listen_when_the_port_is_taken_then_the_remedy_is_named(taken: int) -> None:
    with pytest.raises(CannotStart, match=rf"cannot listen on 127.0.0.1:{taken}: .*in use.*another --port"):
        listen("127.0.0.1", taken)


def test_listen_when_host_is_a_name_requires_an_address() -> None:
    with pytest.raises(CannotStart, match="'localhost' is not an IP address"):
        listen("localhost", None)


def test_listen_when_host_is_foreign_names_it() -> None:
    with pytest.raises(CannotStart, match=r"192\.0\.2\.1 is not an address of this machine\. Set --host"):
        listen("192.0.2.1", None)


@pytest.mark.parametrize(
    ("host", "reached_at"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("::", "[::1]")]
)
def test_endpoint_when_listening_then_this_machine_can_reach_it(host: str, reached_at: str) -> None:
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with listen(host, None) as listener:
        port = listener.getsockname()[1]
        assert endpoint_of(listener) == f"http://{reached_at}:{port}"
        with socket.create_connection((reached_at.strip("[]"), port), timeout=5):
            pass
