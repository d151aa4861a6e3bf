"""The settings of the operator. Secrets come from the environment only: a command line is public."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headrace import environment
from headrace.errors import CannotStart
from headrace.http.bodies import MAX_BODY_BYTES
from headrace.reconcile.images import default_images
from headrace.reconcile.world import Settings as Rules

POD_NAME = "POD_NAME"
POD_NAMESPACE = "POD_NAMESPACE"
MODELS_DIRECTORY = "/models"
"""Mount path of the claim in fetch and runtime pods."""
ALLOWED_SCHEMES = frozenset({"package", "https", "s3", "hf", "oci", "pvc"})
"""Without file://, which would be a file of the pod's node."""


@dataclass(frozen=True, slots=True)
class ModelsClaim:
    """The PersistentVolumeClaim that holds the models of a namespace."""

    name: str
    storage_class: str | None
    """None: the cluster's default; empty: an existing volume without a class."""
    access_mode: str
    size: str
    existing: bool
    """Whether the claim must exist in each namespace; it is never created then."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The operator's configuration."""

    pod_name: str
    """Name of this replica, in its User-Agent and as holder of the Lease."""
    namespace: str
    """Namespace of the operator and its Lease."""
    watch_namespaces: tuple[str, ...]
    """Empty: all."""
    lease_name: str
    gateway_url: str
    nats_url: str
    nats_user: str | None
    nats_password: str | None = field(repr=False)
    runtime_key: str = field(repr=False)
    """Key from which the password of each namespace is derived."""
    images: Mapping[str, str]
    """References by the keys of `headrace.reconcile.images`."""
    image_pull_secrets: tuple[str, ...]
    models: ModelsClaim
    fetch_environment: tuple[tuple[str, str], ...] = field(repr=False)
    """For fetch children: proxies, a package index. Not in `repr`: a URL may contain a password."""
    ca_bundle_configmap: str | None
    """ConfigMap in each model's namespace with trusted certificates for fetches under the key `ca.crt`."""
    max_body_bytes: int
    node_agent: bool
    standby_pods: int
    kept_configmap: str | None
    """ConfigMap of the operator's namespace with the objects that node agents pin; None: they pin nothing."""
    health_port: int

    @classmethod
    def parse(cls, arguments: Sequence[str] | None, variables: Mapping[str, str] = os.environ) -> Settings:
        """Parse the command line and the environment; exits with 2 and the usage if they are invalid.

        Raises CannotStart if a required variable is missing.
        """
        given = _parser().parse_args(arguments)
        return cls(
            pod_name=variables.get(POD_NAME) or f"{socket.gethostname()}-{os.getpid()}",
            namespace=_needed(variables, POD_NAMESPACE),
            watch_namespaces=tuple(given.watch_namespace),
            lease_name=given.lease_name,
            gateway_url=given.gateway_url,
            nats_url=_needed(variables, environment.NATS_URL),
            nats_user=variables.get(environment.NATS_USER) or None,
            nats_password=variables.get(environment.NATS_PASSWORD) or None,
            runtime_key=_needed(variables, environment.NATS_RUNTIME_KEY),
            images=_images(given.image),
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
            max_body_bytes=given.max_body_bytes,
            node_agent=given.node_agent,
            standby_pods=given.standby_pods,
            kept_configmap=given.kept_configmap,
            health_port=given.health_port,
        )

    def rules(self) -> Rules:
        """Return the settings of the pure rules."""
        return Rules(
            gateway_url=self.gateway_url,
            nats_url=self.nats_url,
            models_directory=MODELS_DIRECTORY,
            models_claim=self.models.name,
            images=self.images,
            image_pull_secrets=self.image_pull_secrets,
            platform_namespace=self.namespace,
            fetch_env=self.fetch_environment,
            ca_bundle_configmap=self.ca_bundle_configmap,
            max_body_bytes=self.max_body_bytes,
            pod_security=True,
            node_agent=self.node_agent,
            standby_pods=self.standby_pods,
            allowed_schemes=ALLOWED_SCHEMES,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headrace-operator", description="Reconciles headrace's resources.")
    add = parser.add_argument
    add("--gateway-url", required=True, help="base URL of the gateway, shown in each status")
    add(
        "--image",
        action="append",
        default=[],
        type=_variable,
        metavar="KEY=REFERENCE",
        help=f"image of the operator's pods; may be repeated; {' and '.join(default_images())} are required",
    )
    add("--image-pull-secret", action="append", default=[], help="name of a pull Secret; may be repeated")
    add("--watch-namespace", action="append", default=[], help="watch only this namespace; may be repeated")
    add("--lease-name", default="headrace-operator", help="name of the Lease for leader election")
    add("--models-claim", default="headrace-models", help="PersistentVolumeClaim of models, in each namespace")
    add("--models-storage-class", help="its storage class (default: the cluster's)")
    add(
        "--models-access-mode", default="ReadWriteMany", help="its access mode: fetch and runtime pods mount it at once"
    )
    add("--models-size", default="20Gi", help="its size")
    add("--models-existing-claim", action="store_true", help="do not create the claim; it exists in each namespace")
    add("--fetch-env", action="append", default=[], type=_variable, metavar="NAME=VALUE", help="for fetch children")
    add("--ca-bundle-configmap", help="ConfigMap with ca.crt in each model's namespace, trusted by fetches")
    add(
        "--max-body-bytes",
        type=int,
        default=MAX_BODY_BYTES,
        help="largest request body of runtimes; must be that of the gateways (default 4 MiB); a change rolls out all"
        " models",
    )
    add("--node-agent", action="store_true", help="every node has a node agent: models may keep their weights in it")
    add(
        "--standby-pods",
        type=int,
        default=1,
        metavar="N",
        help="pods of each pool for models with keep: Process; 0: none (default: %(default)s)",
    )
    add(
        "--kept-configmap",
        metavar="NAME",
        help="ConfigMap for the objects that node agents pin (default: they pin none)",
    )
    add("--health-port", type=int, default=8081, help="port of /healthz, /readyz and /metrics")
    return parser


def _needed(variables: Mapping[str, str], name: str) -> str:
    value = variables.get(name)
    if not value:
        raise CannotStart(f"the environment variable {name} is not set", hint="The chart sets it")
    return value


def _images(given: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    images = dict(given)
    for key in default_images().keys() - images.keys():
        raise CannotStart(f"the argument --image {key}=REFERENCE is missing", hint="The chart sets it")
    return images


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value
