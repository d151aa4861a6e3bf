"""ModelDeployment v1alpha1: one served model, small enough to fit a screen.

These classes are the single source of the CRD's schema (`headrace.kinds.crds`), its defaults and its descriptions.
Strings and lists are bounded, because an API server must bound what its CEL rules may cost. Rules between fields are in
`headrace.api.rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field

from headrace.api.parts import Part
from headrace.api.quantity import Quantity
from headrace.runtimes.llm import LLM
from headrace.runtimes.profile import RuntimeProfile
from headrace.runtimes.registry import PROFILES

Word = Annotated[str, Field(max_length=4096)]
Label = Annotated[str, Field(max_length=253)]
if TYPE_CHECKING:
    RuntimeType = str
else:
    RuntimeType = Literal[tuple(PROFILES)]


class Source(Part):
    """Where the model's file comes from."""

    uri: str = Field(
        min_length=1,
        max_length=2048,
        description="package://DISTRIBUTION@VERSION/PATH (a file in a wheel), https://HOST/PATH, pvc://CLAIM/PATH (a "
        "file in a PersistentVolumeClaim of the namespace, used where it is; in a cluster only), or file:///PATH "
        "(local mode only).",
    )
    digest: str | None = Field(
        default=None,
        max_length=71,
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="SHA-256 that the file must have. Without it, the digest of the first fetch is recorded in "
        "status.source.digest and enforced from then on.",
    )


class Model(Part):
    """What is served, and under which name."""

    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/:-]*[A-Za-z0-9])?$",
        description="Public name: what a client puts into the field `model`, e.g. org/model or llama3.1:8b. Default: "
        "metadata.name.",
    )
    source: Source | None = Field(
        default=None,
        description="Where the model's file comes from. May change; a change makes a revision. Required unless "
        "runtime.type is Container: a container may bring its model itself.",
    )


class LLMRuntime(Part):
    """Settings of the LLM runtime."""

    max_model_len: int = Field(
        default=2048,
        ge=16,
        le=1_048_576,
        description="Longest prompt and answer together, in tokens. More than the context of the model's file is "
        "lowered to it, with a warning in the runtime's log.",
    )
    max_concurrent_requests: int = Field(
        default=16, ge=1, le=1024, description="Requests that one replica generates for at the same time."
    )


class ContainerRuntime(Part):
    """An engine that you bring: any container that serves OpenAI's API over HTTP."""

    image: str = Field(
        min_length=1,
        max_length=512,
        pattern=r"^[!-~]+$",
        description="Its image. Required in local mode too, which runs the command instead.",
    )
    command: list[Word] = Field(
        default_factory=list,
        max_length=64,
        description="What to run instead of the image's entrypoint; required in local mode.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    args: list[Word] = Field(
        default_factory=list,
        max_length=256,
        description="Its arguments. $(HEADRACE_MODEL_PATH) is the model's file, $(HEADRACE_MODEL_NAME) its public "
        "name, $(HEADRACE_POD_IP) the address to listen on.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    port: int = Field(default=8000, ge=1, le=65535, description="Where it listens.")
    readiness_path: str = Field(
        default="/v1/models",
        max_length=1024,
        pattern=r"^/[!-~]*$",
        description="What it answers with 200 (GET) when it can serve.",
    )
    model_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        description="Name by which it knows the model: gateways write it into requests. Default: the public name.",
    )
    max_concurrent_requests: int = Field(
        default=16, ge=1, le=10_000, description="Requests that one replica gets at the same time from each gateway."
    )
    announces: bool = Field(
        default=False,
        description="Whether it speaks headrace's runtime contract: on NATS it says itself that it is ready, how busy "
        "it is and that it stops. It gets a login for that.",
    )


class Runtime(Part):
    """Which engine serves the model: a type and the member of that name."""

    type: RuntimeType = Field(
        default=LLM.type,
        description=" ".join(f"{each.type}: {each.description}." for each in PROFILES.values()) + " Immutable.",
    )
    llm: LLMRuntime | None = Field(default=None, description="Settings when type is LLM.")
    container: ContainerRuntime | None = Field(
        default=None, description="The engine when type is Container; required then."
    )

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """The options of the type, with their defaults."""
        name = PROFILES[self.type].options
        if not name:
            return {}
        given: Part | None = getattr(self, name)
        return (given or _part_of(name)()).model_dump()

    @cached_property
    def profile(self) -> RuntimeProfile:
        """The profile of the type with these options."""
        return PROFILES[self.type].configured(self.options)


def _part_of(options: str) -> type[Part]:
    """Return the model of a field of Runtime."""
    part: type[Part] = get_args(Runtime.model_fields[options].annotation)[0]
    return part


class ConcurrencyMetric(Part):
    """Scale on the number of requests."""

    target: int = Field(
        default=8, ge=1, le=10_000, description="Requests (held and running) that one replica should have."
    )


class QueueDelayMetric(Part):
    """Scale on how long requests wait."""

    target_milliseconds: int = Field(
        default=200, ge=1, le=600_000, description="How long a request should wait for a replica, in milliseconds."
    )


class Metric(Part):
    """What the autoscaler looks at: a type and the member of that name."""

    type: Literal["Concurrency", "QueueDelay"] = Field(default="Concurrency", description="Which signal.")
    concurrency: ConcurrencyMetric | None = Field(default=None, description="Settings when type is Concurrency.")
    queue_delay: QueueDelayMetric | None = Field(default=None, description="Settings when type is QueueDelay.")


class ColdStart(Part):
    """What a request meets while no replica runs."""

    queue_timeout_seconds: int = Field(
        default=300, ge=1, le=3600, description="How long a request is held before it is answered with 503."
    )
    max_queued_requests: int = Field(
        default=1000, ge=0, le=100_000, description="Requests held at once per gateway; more are answered with 429."
    )


class Scaling(Part):
    """How the number of replicas follows demand."""

    min_replicas: int = Field(default=0, ge=0, le=1000, description="Never fewer. 0: the model may rest at zero.")
    max_replicas: int = Field(default=1, ge=1, le=1000, description="Never more.")
    metric: Metric = Field(default_factory=Metric, description="What the autoscaler looks at.")
    idle_timeout_seconds: int = Field(
        default=300, ge=1, le=86_400, description="Time without any request after which the last replica goes."
    )
    cold_start: ColdStart = Field(
        default_factory=ColdStart, description="What a request meets while no replica can take it."
    )


class RollingUpdate(Part):
    """How a new revision comes beside the old one."""

    surge: Literal["Auto", "Never"] = Field(
        default="Auto",
        description="Auto: the new revision starts beside the full old one; when there is no room for that for 10 s, "
        "replica by replica in its place. Never: in its place from the beginning.",
    )


class Canary(Part):
    """How much a new revision gets until it is promoted or taken back."""

    percent: int = Field(ge=1, le=99, description="Share of the replicas (rounded up) and of new requests, percent.")


class Rollout(Part):
    """How a new revision takes over, and limits of starting and stopping."""

    type: Literal["RollingUpdate", "Recreate", "Canary"] = Field(
        default="RollingUpdate",
        description="RollingUpdate: the old revision serves until the new one does. Recreate: the old one goes first; "
        "requests are held meanwhile. Canary: the new one gets a share and keeps it until the type changes (which "
        "promotes it) or the old spec is applied; when it fails, its share goes back to the old one.",
    )
    rolling_update: RollingUpdate | None = Field(default=None, description="Settings when type is RollingUpdate.")
    canary: Canary | None = Field(default=None, description="Settings when type is Canary; required then.")
    startup_deadline_seconds: int = Field(
        default=600,
        ge=1,
        le=86_400,
        description="Time in which a replica must become ready; progress in loading extends it.",
    )
    drain_timeout_seconds: int = Field(
        default=30, ge=1, le=3600, description="Time that running requests have to finish when a replica is stopped."
    )


class EnvVar(Part):
    """An environment variable of the runtime's container."""

    name: str = Field(
        min_length=1, max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Name of the variable."
    )
    value: str = Field(default="", max_length=4096, description="Its value.")


class Resources(Part):
    """Compute resources of the runtime's container."""

    requests: dict[Label, Quantity] = Field(
        default_factory=dict, max_length=16, description="Least amounts, as Kubernetes quantities: 2, 500m, 8Gi."
    )
    limits: dict[Label, Quantity] = Field(
        default_factory=dict, max_length=16, description="Most amounts, as Kubernetes quantities: 2, 500m, 8Gi."
    )


class Toleration(Part):
    """A taint that the pods tolerate."""

    key: str | None = Field(default=None, max_length=253, description="Key of the taint.")
    operator: Literal["Exists", "Equal"] = Field(default="Equal", description="How the value is compared.")
    value: str | None = Field(default=None, max_length=253, description="Value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint; absent: all."
    )


class Template(Part):
    """What is laid over the pod template of the runtime."""

    env: list[EnvVar] = Field(
        default_factory=list,
        max_length=64,
        description="Environment variables of the runtime. Those that headrace sets itself (HEADRACE_POD_IP and its "
        "like) are refused.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    resources: Resources = Field(default_factory=Resources, description="Compute resources; local mode ignores them.")
    node_selector: dict[Label, Label] = Field(
        default_factory=dict, max_length=32, description="Labels that a node must have; local mode ignores them."
    )
    tolerations: list[Toleration] = Field(
        default_factory=list,
        max_length=32,
        description="Taints that the pods tolerate; local mode ignores them.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class Spec(Part):
    """What should be true."""

    model: Model = Field(description="What is served, and under which name.")
    runtime: Runtime = Field(default_factory=Runtime, description="Which engine serves the model.")
    replicas: int = Field(
        default=1,
        ge=0,
        le=1000,
        description="Number of replicas while `scaling` is not set; 0 means off: requests are refused, not held.",
    )
    scaling: Scaling | None = Field(
        default=None, description="Lets the number of replicas follow demand; `replicas` is then ignored."
    )
    rollout: Rollout = Field(
        default_factory=Rollout, description="How a new revision takes over, and limits of starting and stopping."
    )
    suspend: bool = Field(default=False, description="true: no replicas, and requests are refused with 503.")
    template: Template = Field(default_factory=Template, description="What is laid over the pod template.")
