"""The chart as helm renders it, without a cluster.

`lookup` finds nothing here and capabilities are helm's own; what depends on a real API server (that it takes every
object, that an upgrade keeps the passwords, that an uninstallation leaves nothing) is the suite's to show.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "charts/headrace"
NAMESPACE = "platform"
"""Not the documentation's: nothing may depend on the name."""
GATEWAY_API = "gateway.networking.k8s.io/v1/HTTPRoute"
EVERYTHING: Mapping[str, Any] = yaml.safe_load(
    """
    commonLabels: {cost-centre: ml}
    images:
      registry: registry.example.org/mirror/
      pullSecrets: [pull]
      gateway: {digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
      nats: {tag: nats-1}
      runtimeCuda: {repository: headrace-runtime-llm-cuda}
    models: {storageClass: nfs, size: 100Gi}
    fetch:
      proxy: {http: "http://proxy:3128", https: "http://proxy:3129", noProxy: ".svc,10.0.0.0/8"}
      caBundleConfigMap: ca
      env: {PIP_INDEX_URL: "https://mirror.example.org/simple"}
    operator: &placed
      priorityClassName: system-cluster-critical
      nodeSelector: {pool: system}
      tolerations: [{key: pool, operator: Exists}]
      affinity: {nodeAffinity: {}}
      podAnnotations: {scrape: "true"}
      podLabels: {team: platform, app.kubernetes.io/component: not-this}
      serviceAccountAnnotations: {role: none}
    gateway:
      <<: *placed
      anonymousNamespace: default
      topologySpreadConstraints: [{maxSkew: 1, topologyKey: rack, whenUnsatisfiable: DoNotSchedule}]
      service:
        type: LoadBalancer
        port: 8000
        nodePort: 30080
        annotations: {load-balancer: internal}
        loadBalancerClass: example.org/lb
        loadBalancerSourceRanges: [10.0.0.0/8]
        externalTrafficPolicy: Local
      ingress: {enabled: true, className: nginx, hosts: [llm.example.org], tlsSecretName: llm-tls}
      httpRoute:
        enabled: true
        parentRefs: [{name: public, namespace: gateways, sectionName: https}]
        hostnames: [llm.example.org]
        timeouts: {request: 0s}
      autoscaling: {enabled: true}
    nats:
      <<: *placed
      persistence: {storageClass: fast}
      existingSecrets: {reconciler: r, gateway: g, runtimeKey: k}
    networkPolicies:
      runtimePorts: [8000]
      gatewayFrom: [{ipBlock: {cidr: 10.0.0.0/8}}]
      metricsFromNamespaces: [monitoring]
    cleanup: {keepModels: false}
    """
)
"""Values that switch on what is off by default."""
WATCHED: Mapping[str, Any] = {"watchNamespaces": ["a", "b"]}
SMALLEST: Mapping[str, Any] = {
    "crds": {"install": False},
    "userRoles": {"install": False},
    "nats": {"persistence": {"enabled": False}},
    "models": {"existingClaim": "mine"},
    "networkPolicies": {"enabled": False},
    "cleanup": {"enabled": False},
}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "everything": EVERYTHING,
    "watched": WATCHED,
    "smallest": SMALLEST,
}

Manifest = dict[str, Any]


class Refused(Exception):
    """Helm would not render; the text is what it says to the user."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Everything that the chart makes of some values, hooks and tests included."""

    objects: tuple[Manifest, ...]

    def get(self, kind: str, name: str) -> Manifest:
        """Return an object; the name is without the release's."""
        (found,) = [one for one in self.all(kind) if one["metadata"]["name"] == f"headrace-{name}"]
        return found

    def all(self, *kinds: str) -> list[Manifest]:
        """Return the objects of these kinds."""
        return [one for one in self.objects if one["kind"] in kinds]

    def pods(self) -> Iterator[tuple[str, Manifest]]:
        """Yield what each pod is made from (metadata and spec), by its maker's kind and name."""
        for one in self.objects:
            name = f"{one['kind']}/{one['metadata']['name']}"
            if one["metadata"].get("annotations", {}).get("helm.sh/hook") == "pre-delete" and one["kind"] == "Pod":
                yield "Pod/headrace-nothing", one
            elif one["kind"] == "Pod":
                yield name, one
            elif "template" in one.get("spec", {}):
                yield name, one["spec"]["template"]

    def container(self, kind: str, name: str) -> Manifest:
        """Return the one container of a workload's pods."""
        (container,) = self.pod(kind, name)["spec"]["containers"]
        assert isinstance(container, dict)
        return container

    def pod(self, kind: str, name: str) -> Manifest:
        """Return what a workload's pods are made from."""
        return next(pod for maker, pod in self.pods() if maker == f"{kind}/headrace-{name}")


def render(values: Mapping[str, Any] | None = None, *arguments: str, release: str = "headrace") -> Rendered:
    """Return what `helm template` makes of values. Raises Refused."""
    return _render(json.dumps(values or {}), arguments, release)


@cache
def _render(values: str, arguments: tuple[str, ...], release: str) -> Rendered:
    text = helm(
        "template",
        release,
        str(CHART),
        "-n",
        NAMESPACE,
        "--api-versions",
        GATEWAY_API,
        *arguments,
        "-f",
        "-",
        text=values,
    )
    return Rendered(tuple(one for one in yaml.safe_load_all(text) if one))


def notes(values: Mapping[str, Any], directory: Path) -> str:
    """Return what helm prints after an installation.

    Helm shows it only with a cluster, so a copy of the chart, in that directory, puts it into an object.
    """
    chart = shutil.copytree(CHART, directory / "headrace")
    shown = 'text: {{ include (print $.Template.BasePath "/NOTES.txt") . | toJson }}'
    (chart / "templates/shown.yaml").write_text(shown)
    command = ["template", "headrace", str(chart), "-n", NAMESPACE, "--api-versions", GATEWAY_API]
    text = helm(*command, "-s", "templates/shown.yaml", "-f", "-", text=json.dumps(values))
    return str(yaml.safe_load(text)["text"])


def helm(*words: str, text: str | None = None) -> str:
    """Run helm and return what it prints. Raises Refused."""
    assert shutil.which("helm"), "helm is not in PATH: the chart's tests render it, so install Helm 3 first"
    done = subprocess.run(["helm", *words], input=text, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise Refused(done.stderr + done.stdout)
    return done.stdout
