"""What headrace knows of a runtime type: one frozen record, read wherever types differ.

A profile is data. Types differ in its values, never in code that asks for the type. Options that a user sets in
`spec.runtime.<options>` are applied by `configured`, which returns another profile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

READINESS_PATH = "/health/ready"
"""Of a runtime of headrace's own. Gateways request it of a revision that has no entry in `Route.engines`."""
Options = Mapping[str, Any]
"""The options of a runtime type by field name (snake_case), defaults included; empty for a type without options."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port that the container listens on."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class Probe:
    """A GET request to the first port, answered with 200 while all is well. None: Kubernetes' default."""

    path: str
    period_seconds: int = 1
    timeout_seconds: int | None = None
    initial_delay_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class PlatformImage:
    """An image of headrace: the chart's value `images.KEY`, passed to the operator as `--image KEY=REFERENCE`."""

    key: str
    name: str
    """Its repository, and its reference in local mode, which does not use it."""
    gpu_key: str = ""
    """Key of the image for pods whose resources name `nvidia.com/gpu`. They get the other one where it is not given."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What the arguments of a runtime may depend on."""

    public_name: str
    model_path: str | None
    """None: the model has no source."""
    options: Options


def _no_arguments(launch: Launch) -> Sequence[str]:
    del launch
    return ()


def _as_it_is(profile: RuntimeProfile, options: Options) -> RuntimeProfile:
    del options
    return profile


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeProfile:
    """One runtime type. The defaults are those of a runtime of headrace's own."""

    type: str
    """Value of `spec.runtime.type`."""
    description: str
    """A noun phrase, for the CRD."""
    options: str = ""
    """Field of `spec.runtime` that has its options; empty: it has none. The field may only be set for this type."""
    options_required: bool = False
    configure: Callable[[RuntimeProfile, Options], RuntimeProfile] = _as_it_is
    """Applies the options."""
    source_required: bool = True
    """Whether `spec.model.source` must be set; else the container may contain or fetch its model."""

    # -- the container -------------------------------------------------------------------------------------------
    image: PlatformImage | str
    """An image of headrace, or the reference of another one."""
    command: tuple[str, ...]
    """Empty: the image's entrypoint. Local mode needs one."""
    arguments: Callable[[Launch], Sequence[str]] = _no_arguments
    """Returns the arguments; empty: those of the image."""
    model_variables: bool = False
    """Whether the variables HEADRACE_MODEL_PATH and HEADRACE_MODEL_NAME are set."""
    resources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Used where `spec.template.resources` is empty."""
    writable_root: bool = False
    """Whether the root file system is writable, with a home directory. Caches in a volume would cost wake time."""
    quotes_log: bool = False
    """Whether the end of the log stands for a missing termination message."""
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that only pods of this type have."""

    # -- how it is used ------------------------------------------------------------------------------------------
    ports: tuple[Port, ...] = (Port("http", 8000),)
    """The first one is named `http`: gateways and probes use it."""
    readiness: Probe = Probe(READINESS_PATH)
    liveness: Probe | None = Probe("/health/live", period_seconds=10, timeout_seconds=5, initial_delay_seconds=10)
    operations: tuple[str, ...]
    """What it serves (`headrace.routes.operations`)."""
    capabilities: tuple[str, ...]
    """Of the runtime protocol (`headrace.api.vocabulary`, for status.capabilities)."""
    self_registers: bool = True
    """Whether replicas report their state on NATS; else they get no login, and the control loop reports for them."""
    explains_unready: bool = False
    """Whether a condition says why the readiness path of a self-registering replica does not answer. Only the user
    knows what a custom container does there; headrace's own runtimes report their stage instead."""
    model_name: str | None = None
    """Name by which it knows the model; None: the public name."""
    capacity: int = 16
    """Requests that one replica takes at the same time (from each gateway, where it does not report its load)."""
    metrics: tuple[str, ...] = ()
    """Names of the metrics that it reports at `/metrics`, without the `_total` of counters."""

    @property
    def http_port(self) -> int:
        """The port that gateways send requests to."""
        return self.ports[0].number

    def configured(self, options: Options) -> RuntimeProfile:
        """Return the profile of a runtime with these options."""
        return self.configure(self, options)
