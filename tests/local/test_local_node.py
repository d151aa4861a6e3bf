"""The name of the local node."""

from __future__ import annotations

import re

import pytest

from headrace.local.node import MAX_NAME_CHARACTERS, name_of_host, node_name

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("laptop", "laptop"),
        ("Anna's-Laptop.local", "anna-s-laptop.local"),
        ("-box_1-", "box-1"),
        ("\u00fc", "localhost"),
        ("", "localhost"),
        ("a" * 300, "a" * MAX_NAME_CHARACTERS),
    ],
)
def test_node_name_of_a_host(host: str, name: str) -> None:
    assert name_of_host(host) == name


def test_node_name_is_stable_and_valid() -> None:
    assert node_name() == node_name()
    assert SUBDOMAIN.fullmatch(node_name())
