"""The NetworkPolicies of a model's pods: whom they may talk to, and who may talk to them.

A runtime answers the platform's gateways and operator alone, because they know whose key opens it; its neighbours in
the namespace do not reach it past them. It asks nobody but DNS and NATS: what it computes leaves it by the gateway. A
fetch reaches what serves models, and never the link's own addresses, where clouds keep their credentials. So does a
brought container that has to get its model itself; one that does not announce itself does not reach NATS.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from headrace.api.vocabulary import COMPONENT_FETCH, COMPONENT_RUNTIME
from headrace.kinds.modeldeployment.manifests.common import guarded_name, labels, metadata
from headrace.kinds.modeldeployment.manifests.deployment import port_of
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.reconcile.world import ApplyPhase, Child, ChildKey, Manifest, Settings

PLATFORM_COMPONENT_LABEL = "app.kubernetes.io/component"
"""On the platform's pods, made by its chart: `gateway`, `operator` or `nats`."""
_DNS = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
"""Anywhere: a resolver may be a pod of any namespace, or the node's own cache, at an address of its link."""
_ANYWHERE = [
    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
    {"ipBlock": {"cidr": "::/0", "except": ["fe80::/10"]}},
]
_WEB_PORTS = frozenset({80, 443})
_NATS_PORT = 4222


def network_policies(
    resource: ModelDeployment, platform: str, settings: Settings, *, announced: bool
) -> tuple[Child, ...]:
    """Return the policy of the runtime pods and that of the fetch pods.

    `announced`: whether there are pods that announce themselves, of whatever revision: they do so until they are gone.
    """
    nats = {"to": [_platform_pods(platform, "nats")], "ports": [_tcp(_port_of(settings.nats_url) or _NATS_PORT)]}
    web = {"to": _ANYWHERE, "ports": [_tcp(each) for each in sorted(_source_ports(resource, settings))]}
    asked_by = {"from": [_platform_pods(platform, "gateway", "operator")], "ports": [_tcp(port_of(resource))]}
    asks = [_DNS]
    if announced or resource.spec.runtime.announces:
        asks.append(nats)
    if resource.spec.model.source is None:
        asks.append(web)
    return (
        _policy(resource, COMPONENT_RUNTIME, {"ingress": [asked_by], "egress": asks}),
        _policy(resource, COMPONENT_FETCH, {"egress": [_DNS, nats, web]}),
    )


def _policy(resource: ModelDeployment, component: str, rules: Manifest) -> Child:
    """Return a policy for both directions: one that has no rule is closed."""
    selector = labels(resource, component)
    manifest: Manifest = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(resource, guarded_name(resource, component), selector),
        "spec": {"podSelector": {"matchLabels": selector}, "policyTypes": ["Ingress", "Egress"], **rules},
    }
    return Child(ChildKey.of(manifest), manifest, ApplyPhase.PREREQUISITE)


def _platform_pods(namespace: str, *components: str) -> Manifest:
    wanted = {"key": PLATFORM_COMPONENT_LABEL, "operator": "In", "values": list(components)}
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchExpressions": [wanted]},
    }


def _source_ports(resource: ModelDeployment, settings: Settings) -> frozenset[int]:
    """Return the web's ports, and those that the source and the fetch's proxies and indexes name in their URLs."""
    source = resource.spec.model.source
    named = [*([source.uri] if source is not None else []), *(value for _, value in settings.fetch_env)]
    return _WEB_PORTS | {port for url in named if (port := _port_of(url)) is not None}


def _port_of(url: str) -> int | None:
    try:
        return urlsplit(url).port if "://" in url else None
    except ValueError:
        return None


def _tcp(port: int) -> Manifest:
    return {"protocol": "TCP", "port": port}
