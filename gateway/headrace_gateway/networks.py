"""The networks in which replicas may be: a report of a tenant contains an address, and the gateway connects to it.

Only addresses in the pod networks are probed, so that a report cannot make the gateway connect to a cloud's metadata
service, the API server or its own machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
"""The pod networks of nearly every cluster: RFC 1918, RFC 6598 (carriers and some clouds) and RFC 4193."""
METADATA = frozenset(
    map(
        ip_address,
        (
            "169.254.169.254",  # AWS, Azure, Google Cloud and most others
            "169.254.170.2",  # AWS, of containers
            "fd00:ec2::254",  # AWS
            "fd00:ec2::23",  # AWS, of EKS pods
            "fd20:ce::254",  # Google Cloud
            "100.100.100.200",  # Alibaba Cloud
            "192.0.0.192",  # Oracle Cloud
            "168.63.129.16",  # Azure, of the host
        ),
    )
)
"""Metadata services of clouds: some are in private networks, and their responses may contain credentials."""


@dataclass(frozen=True, slots=True)
class PodNetworks:
    """The addresses that a replica may have."""

    networks: tuple[Network, ...]
    api_server: Address | None = None
    """Always excluded: the Service of the API server is in a private network too."""

    @classmethod
    def of(cls, networks: Iterable[str], api_server: str = "") -> PodNetworks:
        """Parse networks in CIDR notation. Raises ValueError that names the invalid one."""
        named = tuple(ip_network(network.strip()) for network in networks)
        return cls(named, canonical(api_server))

    def refusal(self, address: Address) -> str:
        """Return why a replica may not have the address; empty if it may."""
        if address == self.api_server:
            return "it is the API server"
        if address in METADATA:
            return "it is the metadata service of a cloud"
        for network in self.networks:
            if address in network and (not _is_special(address) or network.is_loopback):
                return ""
        return f"it is in none of the pod networks ({', '.join(map(str, self.networks))})"


def canonical(host: str) -> Address | None:
    """Return the IP address, or None for anything else.

    Each address has one form: with a second form, two replicas could register one address.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or (None if address.scope_id else address)
    return address


def _is_special(address: Address) -> bool:
    """Whether no pod can have it, however wide the configured networks are."""
    return address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified
