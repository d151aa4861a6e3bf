from __future__ import annotations

import base64
import re
from collections.abc import Iterator

import pytest
from sources.sources_fetcher import Fetcher
from sources.sources_origin import Origin, Proxy, proxying

from headrace.errors import SourceNotAllowed
from headrace.sources.connections import _check

EMBEDDED = ("::ffff:7f00:1", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1", "64:ff9b::a9fe:a9fe")
"""This machine and its link, in the forms in which IPv6 carries IPv4."""


@pytest.fixture
def proxy(origin: Origin) -> Iterator[Proxy]:
    with proxying(origin) as proxy:
        yield proxy


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0.0.0.0", "[::ffff:127.0.0.1]"])
def test_fetch_when_of_this_machine_then_does_not_connect(fetcher: Fetcher, origin: Origin, host: str) -> None:
    fetcher.allow_loopback = False

    outcome = fetcher.fetch(origin.uri(host=host))

    assert (outcome.code, outcome.said["reason"]) == (11, "SourceNotAllowed")
    assert ("`headrace up --allow-loopback-sources`" in outcome.said["message"]) == (host != "0.0.0.0")
    assert origin.connections == 0


def test_fetch_when_redirected_to_an_inside_address_then_refuses(fetcher: Fetcher, origin: Origin) -> None:
    origin.redirects = {"/model.gguf": "https://169.254.169.254/latest/meta-data"}

    outcome = fetcher.fetch(origin.uri())

    assert (outcome.code, outcome.said["reason"]) == (11, "SourceNotAllowed")
    assert "169.254.169.254" in outcome.said["message"]


@pytest.mark.parametrize(
    "address", ["127.9.9.9", "::1", "169.254.169.254", "fe80::1%eth0", "::", "224.0.0.1", *EMBEDDED]
)
def test_check_of_an_inside_address_then_refuses(address: str) -> None:
    with pytest.raises(SourceNotAllowed):
        _check(address, "host", allow_loopback=False)


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.1.1", "fd00::1", "93.184.215.14"])
def test_check_of_a_private_or_public_address_then_allows(address: str) -> None:
    _check(address, "host", allow_loopback=False)


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("169.254.169.254", "169.254.169.254 is a loopback, link-local"),
        ("metadata.test", "metadata.test is 169.254.169.254, a loopback, link-local"),
    ],
)
def test_check_when_it_refuses_then_says_the_address_once(host: str, says: str) -> None:
    with pytest.raises(SourceNotAllowed, match=f"^{re.escape(says)}"):
        _check("169.254.169.254", host, allow_loopback=False)


def test_fetch_when_behind_proxy_then_proxy_resolves_with_login(fetcher: Fetcher, origin: Origin, proxy: Proxy) -> None:
    fetcher.allow_loopback = False
    fetcher.environment["HTTPS_PROXY"] = f"http://me:hush@127.0.0.1:{proxy.port}"

    outcome = fetcher.fetch(origin.uri(host="model.test"))

    assert outcome.code == 0, outcome.output
    assert proxy.authorizations == ["Basic " + base64.b64encode(b"me:hush").decode()]
    assert "hush" not in outcome.output


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "localhost"])
def test_fetch_when_proxied_to_this_machine_then_refused(
    fetcher: Fetcher, origin: Origin, proxy: Proxy, host: str
) -> None:
    fetcher.allow_loopback = False
    fetcher.environment["HTTPS_PROXY"] = f"http://127.0.0.1:{proxy.port}"

    outcome = fetcher.fetch(origin.uri(host=host))

    assert outcome.code == 11
    assert proxy.authorizations == []


def test_fetch_when_no_proxy_names_the_host_then_goes_directly(fetcher: Fetcher, origin: Origin) -> None:
    fetcher.environment |= {"HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": "localhost"}

    assert fetcher.fetch(origin.uri()).code == 0
