"""NetworkPolicies of a model's pods, for ingress and egress.

A runtime accepts connections only from gateways, which check API keys, and from the operator; other pods of the
namespace cannot reach it. It connects only to DNS and NATS. A runtime that does not register itself cannot reach NATS.
A fetch reaches the ports of model sources, but not link-local addresses, where clouds serve credentials; so does a
custom container without a source, which fetches its model itself.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from headrace.api.vocabulary import COMPONENT_FETCH, COMPONENT_RUNTIME, COMPONENT_STANDBY
from headrace.kinds.modeldeployment.manifests.common import component_name, labels, metadata
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.reconcile.world import ApplyPhase, Child, ChildKey, Manifest, Settings

PLATFORM_COMPONENT_LABEL = "app.kubernetes.io/component"
"""On the pods of the platform, set by its chart: `gateway`, `operator` or `nats`."""
_DNS = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
"""DNS at any address: a resolver may be a pod of any namespace, or a cache of the node at a link-local address."""
_ANYWHERE = [
    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
    {"ipBlock": {"cidr": "::/0", "except": ["fe80::/10"]}},
]
_WEB_PORTS = frozenset({80, 443})
_NATS_PORT = 4222


def network_policies(
    resource: ModelDeployment, platform: str, settings: Settings, *, registering: bool, standby: bool = False
) -> tuple[Child, ...]:
    """Return the policies of the runtime pods, of the fetch pods, and (`standby`) of standby pods.

    `registering`: whether pods of any revision register themselves; they need NATS until they are deleted.
    """
    nats = {"to": [_platform_pods(platform, "nats")], "ports": [_tcp(_port_of(settings.nats_url) or _NATS_PORT)]}
    web = {"to": _ANYWHERE, "ports": [_tcp(each) for each in sorted(_source_ports(resource, settings))]}
    profile = resource.spec.runtime.profile
    ports = [_tcp(port.number) for port in profile.ports]
    ingress = {"from": [_platform_pods(platform, "gateway", "operator")], "ports": ports}
    egress = [_DNS]
    if registering or profile.self_registers:
        egress.append(nats)
    if resource.spec.model.source is None:
        egress.append(web)
    return (
        _policy(resource, COMPONENT_RUNTIME, {"ingress": [ingress], "egress": egress}),
        _policy(resource, COMPONENT_FETCH, {"egress": [_DNS, nats, web]}),
        *([_policy(resource, COMPONENT_STANDBY, {"egress": [_DNS, nats]})] if standby else []),
    )


def _policy(resource: ModelDeployment, component: str, rules: Manifest) -> Child:
    """Return a policy for both directions; a direction without rules is denied."""
    selector = labels(resource, component)
    manifest: Manifest = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(resource, component_name(resource, component), selector),
        "spec": {"podSelector": {"matchLabels": selector}, "policyTypes": ["Ingress", "Egress"], **rules},
    }
    return Child(ChildKey.of(manifest), manifest, ApplyPhase.PREREQUISITE)


def _platform_pods(namespace: str, *components: str) -> Manifest:
    expression = {"key": PLATFORM_COMPONENT_LABEL, "operator": "In", "values": list(components)}
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchExpressions": [expression]},
    }


def _source_ports(resource: ModelDeployment, settings: Settings) -> frozenset[int]:
    """Return ports 80 and 443, and the ports in the URLs of the source and of the fetch's proxies and indexes."""
    source = resource.spec.model.source
    sources = [*([source] if source is not None else []), *resource.spec.runtime.adapters]
    named = [*(each.uri for each in sources), *(value for _, value in settings.fetch_env)]
    return _WEB_PORTS | {port for url in named if (port := _port_of(url)) is not None}


def _port_of(url: str) -> int | None:
    try:
        return urlsplit(url).port if "://" in url else None
    except ValueError:
        return None


def _tcp(port: int) -> Manifest:
    return {"protocol": "TCP", "port": port}
