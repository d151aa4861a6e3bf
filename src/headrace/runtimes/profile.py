"""Profile of a runtime type: one frozen record with everything in which types differ.

Types differ in the values of their profiles; no code depends on the type itself. `configured` applies the options that
a user sets in `spec.runtime.<options>`, and returns another profile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

GPU = "nvidia.com/gpu"
"""Resource by which a template requests a GPU, and so the image with GPU support."""
READINESS_PATH = "/health/ready"
"""Readiness path of headrace's runtimes, and of revisions without an entry in `Route.engines`."""
Options = Mapping[str, Any]
"""The options of a runtime type by field name (snake_case), defaults included; empty for a type without options."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port that the container listens on."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe: a GET request to the first port; 200 is a success. A field that is None has Kubernetes' default."""

    path: str
    period_seconds: int = 1
    timeout_seconds: int | None = None
    initial_delay_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class PlatformImage:
    """An image of headrace: the chart's value `images.KEY`, passed to the operator as `--image KEY=REFERENCE`."""

    key: str
    name: str
    """Name of its repository, and its reference in local mode, which does not use it."""
    gpu_key: str = ""
    """Key of the image for pods that request `nvidia.com/gpu`; without such an image they use the other one."""


@dataclass(frozen=True, slots=True)
class LaunchAdapter:
    """A LoRA adapter that a runtime loads."""

    name: str
    """Its public name."""
    path: str


@dataclass(frozen=True, slots=True)
class Launch:
    """Inputs of the arguments of a runtime."""

    public_name: str
    model_path: str | None
    """None: the model has no source."""
    options: Options
    adapters: tuple[LaunchAdapter, ...] = ()


def _no_arguments(launch: Launch) -> Sequence[str]:
    del launch
    return ()


def _unchanged(profile: RuntimeProfile, options: Options) -> RuntimeProfile:
    del options
    return profile


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeProfile:
    """One runtime type. The defaults are those of headrace's runtimes."""

    type: str
    """Value of `spec.runtime.type`."""
    description: str
    """A noun phrase, for the CRD."""
    options: str = ""
    """Field of `spec.runtime` with its options, which may only be set for this type; empty: no options."""
    options_required: bool = False
    configure: Callable[[RuntimeProfile, Options], RuntimeProfile] = _unchanged
    """Applies the options."""
    source_required: bool = True
    """Whether `spec.model.source` must be set; if not, the container may contain or fetch its model."""

    # -- the container -------------------------------------------------------------------------------------------
    image: PlatformImage | str
    """An image of headrace, or the reference of another image."""
    command: tuple[str, ...]
    """Command; empty: the image's entrypoint. Required in local mode."""
    standby: bool = False
    """Whether `COMMAND standby FD` is a warm process (`headrace.standby`), and `COMMAND standby` one in a standby pod
    (`headrace.serving.standby`)."""
    arguments: Callable[[Launch], Sequence[str]] = _no_arguments
    """Returns the arguments; empty: the arguments of the image."""
    model_variables: bool = False
    """Whether the variables HEADRACE_MODEL_PATH and HEADRACE_MODEL_NAME are set."""
    resources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Default resources, if `spec.template.resources` is empty."""
    writable_root: bool = False
    """Whether the root file system is writable, with a home directory. A volume for caches would delay cold starts."""
    quotes_log: bool = False
    """Whether the end of the log is quoted if there is no termination message."""
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    """Additional labels of pods of this type."""

    # -- network, operations and capabilities --------------------------------------------------------------------
    ports: tuple[Port, ...] = (Port("http", 8000),)
    """The first one is named `http`: gateways and probes use it."""
    readiness: Probe = Probe(READINESS_PATH)
    liveness: Probe | None = Probe("/health/live", period_seconds=10, timeout_seconds=5, initial_delay_seconds=10)
    operations: tuple[str, ...]
    """Operations that it serves (`headrace.routes.operations`)."""
    capabilities: tuple[str, ...]
    """Capabilities of the runtime protocol (`headrace.api.vocabulary`), for status.capabilities."""
    self_registers: bool = True
    """Whether replicas report their state on NATS; if not, they have no login, and the reconcile loop reports it."""
    explains_unready: bool = False
    """Whether conditions report failed probes of a self-registering replica's readiness path. Only the user can fix the
    readiness path of a custom container; headrace's runtimes report their stage instead."""
    model_name: str | None = None
    """Name of the model in its API; None: the public name."""
    capacity: int = 16
    """Requests that one replica accepts at the same time (from each gateway, if it does not report its load)."""
    metrics: tuple[str, ...] = ()
    """Names of the metrics that it reports at `/metrics`, without the `_total` of counters."""

    @property
    def http_port(self) -> int:
        """The port that gateways send requests to."""
        return self.ports[0].number

    def configured(self, options: Options) -> RuntimeProfile:
        """Return the profile of a runtime with these options."""
        return self.configure(self, options)
