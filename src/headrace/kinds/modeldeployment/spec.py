"""Spec of ModelDeployment v1alpha1: one served model.

These classes are the single source of the CRD's schema (`headrace.kinds.crds`), its defaults and its descriptions.
Strings and lists are bounded, because the API server limits the estimated cost of CEL rules. Validation rules across
fields are in `headrace.kinds.modeldeployment.rules`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from headrace.api.parts import Part
from headrace.kinds.modeldeployment.template import Template
from headrace.runtimes.llm import LLM, POLICIES
from headrace.runtimes.moe import CACHE_POLICIES
from headrace.runtimes.profile import RuntimeProfile
from headrace.runtimes.registry import PROFILES

Word = Annotated[str, Field(max_length=4096)]
Keep = Literal["Nothing", "Weights", "Process"]
if TYPE_CHECKING:
    RuntimeType = str
    LLMPolicy = str
    CachePolicy = str
else:
    RuntimeType = Literal[tuple(PROFILES)]
    LLMPolicy = Literal[tuple(POLICIES)]
    CachePolicy = Literal[tuple(CACHE_POLICIES)]


class Source(Part):
    """Where the model's file comes from."""

    field: ClassVar[str] = "spec.model.source"
    """For messages."""

    uri: str = Field(
        min_length=1,
        max_length=2048,
        description="package://DISTRIBUTION@VERSION/PATH (a file in a wheel), https://HOST/PATH, s3://BUCKET/KEY or "
        "s3://BUCKET/PREFIX/ (a directory), hf://ORGANISATION/REPOSITORY@REVISION (a directory; with /PATH, one file), "
        "oci://REGISTRY/REPOSITORY:TAG (an artifact with a layer per file), pvc://CLAIM/PATH (a "
        "file in a PersistentVolumeClaim of the namespace, not copied; in a cluster only), or file:///PATH "
        "(local mode only; with a final slash, a directory).",
    )
    digest: str | None = Field(
        default=None,
        max_length=71,
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="Required SHA-256 of the file; of a directory, that of the list of its files with their digests. "
        "Without it, the digest of the first fetch is recorded in status.source.digest and enforced from then on.",
    )


class Model(Part):
    """The model and its public name."""

    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/:-]*[A-Za-z0-9])?$",
        description="Public name: the value of the field `model` in requests, e.g. org/model or llama3.1:8b. Default: "
        "metadata.name.",
    )
    source: Source | None = Field(
        default=None,
        description="Where the model's file comes from. A change creates a revision. Required unless runtime.type is "
        "Container, because a container image may contain its model.",
    )


class LLMScheduler(Part):
    """Which tokens the LLM engine computes in a step."""

    policy: LLMPolicy = Field(
        default="Sarathi",
        description="Sarathi: running answers are never paused, prompts are computed beside them in chunks. SplitFuse: "
        "the same with steps of exactly the budget. PrefillFirst: whole prompts first, for throughput. Static: a batch "
        "begins when the former has ended. Flover: contiguous slots in a window without holes.",
    )
    token_budget: int | None = Field(
        default=None,
        ge=2,
        le=65_536,
        description="Tokens that a step computes at most. A smaller budget makes the pace of answers more even, and "
        "prompts slower. Default: 256, or twice maxConcurrentRequests if that is more.",
    )


class LLMCache(Part):
    """The LLM engine's cache of keys and values."""

    layout: Literal["Paged", "Slots"] | None = Field(
        default=None,
        description="Paged: small blocks, shared by requests with equal beginnings. Slots: maxModelLen tokens in one "
        "piece for each request. Default: Paged, but Slots with the policy Flover.",
    )
    tokens: int | None = Field(
        default=None,
        ge=16,
        le=1_073_741_824,
        description="Tokens that fit into the cache. If running requests need more, the newest of them is preempted "
        "and computed again later. Default: maxModelLen for each of maxConcurrentRequests.",
    )


class Adapter(Source):
    """A LoRA adapter of the model."""

    field: ClassVar[str] = "spec.runtime.llm.adapters"

    name: str = Field(
        min_length=1,
        max_length=63,
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$",
        description="Name of the adapter. Its public name, the value of the field `model` in requests, is "
        "MODEL:NAME with the model's public name, e.g. smollm2:sql.",
    )


class EngineRuntime(Part):
    """Settings of the engine that the LLM runtime and the MoE runtime share."""

    max_model_len: int = Field(
        default=2048,
        ge=16,
        le=1_048_576,
        description="Maximum tokens of prompt and answer together. A value above the context length of the model's "
        "file is lowered to it, with a warning in the runtime's log.",
    )
    max_concurrent_requests: int = Field(
        default=16, ge=1, le=1024, description="Requests that one replica processes at the same time."
    )
    scheduler: LLMScheduler | None = Field(default=None, description="Which tokens a step computes.")
    kv_cache: LLMCache | None = Field(default=None, description="The cache of keys and values.")


class LLMRuntime(EngineRuntime):
    """Settings of the LLM runtime."""

    adapters: list[Adapter] = Field(
        default_factory=list,
        max_length=16,
        description="LoRA adapters that every replica loads when it starts: PEFT's directory or llama.cpp's GGUF file. "
        "A change creates a revision.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )


class ExpertCache(Part):
    """A cache of experts: only some are in memory, and the others are read from the model's file when needed."""

    percent: int = Field(ge=1, le=100, description="Share of the model's experts that are in memory, in percent.")
    policy: CachePolicy = Field(
        default="LayerLRU",
        description="Which expert is evicted. LayerLRU: the one of the same layer that was not used for the longest "
        "time. LRU: the same over all layers. LFU: the one with the fewest recent uses. LFRU: the one with the fewest "
        "uses over the time since the last one.",
    )
    prefetch: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Most experts that are loaded ahead per layer of a step, as the gate of the next layer predicts; "
        "0: none.",
    )


class MoERuntime(EngineRuntime):
    """Settings of the MoE runtime: those of the engine, and the cache of experts."""

    expert_cache: ExpertCache | None = Field(
        default=None, description="The cache of experts. Default: none, all experts are in memory."
    )


class ContainerRuntime(Part):
    """A custom container: any image that serves OpenAI's API over HTTP."""

    image: str = Field(
        min_length=1,
        max_length=512,
        pattern=r"^[!-~]+$",
        description="Container image. Required in local mode too, although the command runs instead.",
    )
    command: list[Word] = Field(
        default_factory=list,
        max_length=64,
        description="Command that replaces the image's entrypoint; required in local mode.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    args: list[Word] = Field(
        default_factory=list,
        max_length=256,
        description="Arguments. $(HEADRACE_MODEL_PATH) is the model's file, $(HEADRACE_MODEL_NAME) its public name, "
        "$(HEADRACE_POD_IP) the address to listen on.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    port: int = Field(default=8000, ge=1, le=65535, description="Port on which it listens.")
    readiness_path: str = Field(
        default="/v1/models",
        max_length=1024,
        pattern=r"^/[!-~]*$",
        description="Path whose GET returns 200 when the container is ready to serve.",
    )
    model_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        description="Name of the model in the container's API; gateways write it into requests. Default: the public "
        "name.",
    )
    max_concurrent_requests: int = Field(
        default=16, ge=1, le=10_000, description="Requests that each gateway sends to one replica at the same time."
    )
    announces: bool = Field(
        default=False,
        description="Whether the container implements headrace's runtime contract and registers itself: it reports "
        "readiness, load and draining on NATS, and its pods get credentials for NATS.",
    )


class Runtime(Part):
    """The runtime that serves the model: a type and the settings of that type."""

    type: RuntimeType = Field(
        default=LLM.type,
        description=" ".join(f"{each.type}: {each.description}." for each in PROFILES.values()) + " Immutable.",
    )
    llm: LLMRuntime | None = Field(default=None, description="Settings when type is LLM.")
    moe: MoERuntime | None = Field(default=None, description="Settings when type is MoE.")
    container: ContainerRuntime | None = Field(
        default=None, description="The custom container; required when type is Container."
    )

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """The options of the type, with their defaults."""
        name = PROFILES[self.type].options
        if not name:
            return {}
        given: Part | None = getattr(self, name)
        return (given or _part_of(name)()).model_dump()

    @property
    def adapters(self) -> Sequence[Adapter]:
        """The LoRA adapters of the model."""
        return self.llm.adapters if self.llm is not None else ()

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

    target: int = Field(default=8, ge=1, le=10_000, description="Desired requests per replica, queued and in flight.")


class QueueDelayMetric(Part):
    """Scale on the queueing delay of requests."""

    target_milliseconds: int = Field(
        default=200, ge=1, le=600_000, description="Desired time that a request waits for a replica, in milliseconds."
    )


class Metric(Part):
    """The metric of the autoscaler: a type and the settings of that type."""

    type: Literal["Concurrency", "QueueDelay"] = Field(default="Concurrency", description="Type of the metric.")
    concurrency: ConcurrencyMetric | None = Field(default=None, description="Settings when type is Concurrency.")
    queue_delay: QueueDelayMetric | None = Field(default=None, description="Settings when type is QueueDelay.")


class ColdStart(Part):
    """Starting from zero: queueing of requests while no replica can take them, and what makes the start faster."""

    queue_timeout_seconds: int = Field(
        default=300, ge=1, le=3600, description="How long a request is queued before it fails with 503."
    )
    max_queued_requests: int = Field(
        default=1000,
        ge=0,
        le=100_000,
        description="Maximum queued requests per gateway; further requests are rejected with 429.",
    )
    keep: Keep = Field(
        default="Nothing",
        description="What outlives the replicas, so that the next one starts faster. Nothing. Weights: the node's "
        "object store holds the weights in the form in which the runtime computes, and replicas map them; the replicas "
        "of a node share one copy, and later ones prefer that node. In a cluster the copy stays as long as the model, "
        "in local mode until the store needs the memory. It needs the node agent (status.keep shows whether it is "
        "used); in a cluster the volume delays each pod by about 0.3 s, so it pays for models of 1 GB or more. A "
        "custom container must use the store itself. Process: as Weights, and a process of the runtime that has loaded "
        "its libraries waits and becomes the next replica. In local mode it takes about 150 MB of memory. In a "
        "cluster it is a standby pod, which has the resources of a replica; models of a namespace with equal templates "
        "share a pool.",
    )


class Scaling(Part):
    """Autoscaling: the number of replicas follows demand."""

    min_replicas: int = Field(
        default=0, ge=0, le=1000, description="Minimum number of replicas. 0: the model can scale to zero."
    )
    max_replicas: int = Field(default=1, ge=1, le=1000, description="Maximum number of replicas.")
    metric: Metric = Field(default_factory=Metric, description="Metric of the autoscaler.")
    idle_timeout_seconds: int = Field(
        default=300, ge=1, le=86_400, description="Time without requests after which the model scales to zero."
    )
    cold_start: ColdStart = Field(
        default_factory=ColdStart, description="Starting from zero: queueing of requests, and what makes it faster."
    )


class RollingUpdate(Part):
    """Settings of a rolling update."""

    surge: Literal["Auto", "Never"] = Field(
        default="Auto",
        description="Auto: the candidate revision starts in addition to all replicas of the stable one; without "
        "capacity for that for 10 s, it replaces the stable revision replica by replica. Never: it replaces the "
        "stable revision replica by replica from the beginning.",
    )


class Canary(Part):
    """Share of a candidate revision until it is promoted or rolled back."""

    percent: int = Field(ge=1, le=99, description="Share of the replicas (rounded up) and of new requests, in percent.")


class Rollout(Part):
    """How a new revision is rolled out, and time limits for starting and stopping replicas."""

    type: Literal["RollingUpdate", "Recreate", "Canary"] = Field(
        default="RollingUpdate",
        description="RollingUpdate: the stable revision serves until the candidate is ready. Recreate: the stable "
        "revision is stopped first; requests are queued meanwhile. Canary: the candidate gets a share until the type "
        "changes (which promotes it) or the previous spec is applied; if it fails, its share returns to the stable "
        "revision.",
    )
    rolling_update: RollingUpdate | None = Field(default=None, description="Settings when type is RollingUpdate.")
    canary: Canary | None = Field(default=None, description="Settings; required when type is Canary.")
    startup_deadline_seconds: int = Field(
        default=600,
        ge=1,
        le=86_400,
        description="Time within which a replica must become ready; reported loading progress extends it.",
    )
    drain_timeout_seconds: int = Field(
        default=30, ge=1, le=3600, description="Time for requests in flight to finish when a replica is stopped."
    )


class Spec(Part):
    """The desired state."""

    model: Model = Field(description="The model and its public name.")
    runtime: Runtime = Field(default_factory=Runtime, description="The runtime that serves the model.")
    replicas: int = Field(
        default=1,
        ge=0,
        le=1000,
        description="Number of replicas while `scaling` is not set. 0: requests are rejected, not queued.",
    )
    scaling: Scaling | None = Field(
        default=None, description="Autoscaling: the number of replicas follows demand, and `replicas` is ignored."
    )
    rollout: Rollout = Field(
        default_factory=Rollout,
        description="How a new revision is rolled out, and time limits for starting and stopping replicas.",
    )
    suspend: bool = Field(default=False, description="true: no replicas, and requests are rejected with 503.")
    template: Template = Field(default_factory=Template, description="Additions to the pod template of the runtime.")
