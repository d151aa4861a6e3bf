"""What an operator may set, each with its reason. Secrets come by environment only: a command line is public."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headrace import environment

POD_NAME = "POD_NAME"
POD_NAMESPACE = "POD_NAMESPACE"


@dataclass(frozen=True, slots=True)
class ModelsClaim:
    """The PersistentVolumeClaim that holds the models of a namespace."""

    name: str
    storage_class: str | None
    access_mode: str
    size: str
    existing: bool
    """It is never made: it must be there in each namespace."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The operator's configuration."""

    pod_name: str
    namespace: str
    """Where the operator itself runs, and its Lease is."""
    watch_namespaces: tuple[str, ...]
    """Empty: all."""
    lease_name: str
    gateway_url: str
    nats_url: str
    nats_user: str | None
    nats_password: str | None = field(repr=False)
    runtime_key: str = field(repr=False)
    runtime_image: str
    runtime_image_cuda: str | None
    fetch_image: str
    image_pull_secrets: tuple[str, ...]
    models: ModelsClaim
    fetch_environment: tuple[tuple[str, str], ...]
    """For fetch children: proxies, a package index."""
    ca_bundle_configmap: str | None
    """ConfigMap of each model's namespace, key `ca.crt`, that fetches trust."""
    health_port: int

    @classmethod
    def parse(cls, arguments: Sequence[str] | None, variables: Mapping[str, str] = os.environ) -> Settings:
        """Return what the command line and the environment say; exits with 2 and the usage on nonsense."""
        given = _parser().parse_args(arguments)
        return cls(
            pod_name=variables.get(POD_NAME) or socket.gethostname(),
            namespace=variables.get(POD_NAMESPACE) or "default",
            watch_namespaces=tuple(given.watch_namespace),
            lease_name=given.lease_name,
            gateway_url=given.gateway_url,
            nats_url=variables.get(environment.NATS_URL, "nats://127.0.0.1:4222"),
            nats_user=variables.get(environment.NATS_USER) or None,
            nats_password=variables.get(environment.NATS_PASSWORD) or None,
            runtime_key=variables.get(environment.NATS_RUNTIME_KEY, ""),
            runtime_image=given.runtime_image,
            runtime_image_cuda=given.runtime_image_cuda,
            fetch_image=given.fetch_image,
            image_pull_secrets=tuple(given.image_pull_secret),
            models=ModelsClaim(
                name=given.models_claim,
                storage_class=given.models_storage_class,
                access_mode=given.models_access_mode,
                size=given.models_size,
                existing=given.models_existing_claim,
            ),
            fetch_environment=tuple(given.fetch_env),
            ca_bundle_configmap=given.ca_bundle_configmap,
            health_port=given.health_port,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headrace-operator", description="Reconciles headrace's resources.")
    add = parser.add_argument
    add("--gateway-url", required=True, help="base URL of the gateway, shown in each status")
    add("--runtime-image", required=True, help="image of the LLM runtime")
    add("--runtime-image-cuda", help="image for resources that ask for nvidia.com/gpu (default: the same)")
    add("--fetch-image", required=True, help="image that fetches models")
    add("--image-pull-secret", action="append", default=[], help="name of a pull Secret; may be repeated")
    add("--watch-namespace", action="append", default=[], help="watch this namespace alone; may be repeated")
    add("--lease-name", default="headrace-operator", help="the Lease by which one replica leads")
    add("--models-claim", default="headrace-models", help="PersistentVolumeClaim of models, in each namespace")
    add("--models-storage-class", help="its storage class (default: the cluster's)")
    add(
        "--models-access-mode", default="ReadWriteMany", help="its access mode: fetch and runtime pods mount it at once"
    )
    add("--models-size", default="20Gi", help="its size")
    add("--models-existing-claim", action="store_true", help="never make the claim; it is there in each namespace")
    add("--fetch-env", action="append", default=[], type=_variable, metavar="NAME=VALUE", help="for fetch children")
    add("--ca-bundle-configmap", help="ConfigMap with ca.crt in each model's namespace, which fetches trust")
    add("--health-port", type=int, default=8081, help="port of /healthz, /readyz and /metrics")
    return parser


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value
