"""Where replicas may be: a tenant's report names an address, and the gateway connects to it.

So that a report cannot send the gateway to what is no replica (a cloud's metadata service, the API server, its own
machine), only addresses in the pod networks are probed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
"""Where nearly every cluster has its pods: RFC 1918, RFC 6598 (carriers and some clouds) and RFC 4193."""
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
"""Metadata services of clouds: some are in private networks, and their answers may hold credentials."""


@dataclass(frozen=True, slots=True)
class PodNetworks:
    """The addresses at which a replica may be."""

    networks: tuple[Network, ...]
    api_server: Address | None = None
    """Never one of them: the Service of the API server is in a private network, too."""

    @classmethod
    def of(cls, networks: Iterable[str], api_server: str = "") -> PodNetworks:
        """Return those in CIDR notation. Raises ValueError, with the one at fault, for anything else."""
        named = tuple(ip_network(network.strip()) for network in networks)
        return cls(named, canonical(api_server))

    def refusal(self, address: Address) -> str:
        """Return why no replica may be at the address; empty when one may be."""
        if address == self.api_server:
            return "that is the API server"
        if address in METADATA:
            return "that is the metadata service of a cloud"
        for network in self.networks:
            if address in network and (not _is_special(address) or network.is_loopback):
                return ""
        return f"that is in none of the pod networks ({', '.join(map(str, self.networks))})"


def canonical(host: str) -> Address | None:
    """Return the IP address, or None for anything else.

    There is one way to write each: by a second name of an address two replicas could have it.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or (None if address.scope_id else address)
    return address


def _is_special(address: Address) -> bool:
    """Whether no pod has it, however wide the networks are that an operator names."""
    return address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified
