"""Loopback addresses of pods: each pod has one on which nothing listens."""

from __future__ import annotations

import socket

from headrace.local.addresses import Addresses


def test_addresses_never_repeat_nor_are_network_addresses() -> None:
    addresses = Addresses(250)
    taken = [addresses.take([]) for _ in range(1000)]
    assert len(set(taken)) == 1000
    assert not [address for address in taken if address.endswith((".0", ".255"))]


def test_address_when_somebody_listens_there_is_passed_over() -> None:
    first = Addresses(1000).take([8000])
    with socket.create_server((first, 8000)):
        assert Addresses(1000).take([8000]) != first


def test_address_when_port_in_use_everywhere_then_still_given() -> None:
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        assert Addresses(2000).take([everywhere.getsockname()[1]])
