"""Constants of the API: group, labels, annotations, condition types and reasons.

A reason is part of the API, because alerts depend on it. The docstring of a constant states when it is set.
"""

from __future__ import annotations

from typing import Final

GROUP = "headrace.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
CATEGORY = "headrace"
FIELD_MANAGER = "headrace-operator"
NODE_DRIVER = "node.headrace.dev"
"""CSI driver of the inline volumes that hold the node agent's socket."""
KEEP_NOTHING: Final = "Nothing"
KEEP_WEIGHTS: Final = "Weights"
KEEP_PROCESS: Final = "Process"
"""Values of `spec.scaling.coldStart.keep`."""
MODEL_DEPLOYMENT = "ModelDeployment"
"""Kind of the resource that serves a model."""

# -- labels and annotations ------------------------------------------------------------------------
MANAGED_BY = "app.kubernetes.io/managed-by"
"""On every child, value `headrace`."""
MODEL_LABEL = "headrace.dev/model-deployment"
"""On every child of a ModelDeployment and its pods: the ModelDeployment's name."""
REVISION_LABEL = "headrace.dev/revision"
"""On a revision's Deployment and pods: the revision hash."""
COMPONENT_LABEL = "headrace.dev/component"
"""On children and pods: `runtime`, `fetch` or `standby`."""
COMPONENT_RUNTIME = "runtime"
COMPONENT_FETCH = "fetch"
COMPONENT_STANDBY = "standby"
STANDBY_LABEL = "headrace.dev/standby"
"""On standby pods, also once they are replicas: the hash of their program, whose models they can serve."""
API_KEY_LABEL = "headrace.dev/api-key"
"""On a Secret that is an API key; its data: `sha256` (hex digest of the key) and optionally `models` (comma-separated
public names that the key may call)."""
REVISION_INFO_ANNOTATION = "headrace.dev/revision-info"
"""On a revision's Deployment: what the revision is, as JSON (`headrace.kinds.modeldeployment.revision_info`)."""
PUBLIC_NAME_ANNOTATION = "headrace.dev/public-name"
"""On a revision's Deployment, for builds before release 0.1.0: the public name that its pods serve."""
ENGINE_MODEL_ANNOTATION = "headrace.dev/engine-model"
"""On the Deployment of a custom container, for builds before release 0.1.0: the model's name in the API of its engine;
empty: the public name."""
ANNOUNCES_LABEL = "headrace.dev/announces"
"""On the Deployment and the pods of a custom container that registers itself: `true`."""
QUOTA_RETRY_ANNOTATION = "headrace.dev/quota-retry"
"""On a Deployment whose pods exceed a quota: the number of pods of other revisions. A change makes Kubernetes retry."""
OWNER_ANNOTATION = "headrace.dev/owner"
"""On a cluster-scoped child: which resource owns it (`headrace.reconcile.ownership`)."""
ROUTABLE_GATE = "headrace.dev/routable"
"""Pod readiness gate: True once every live gateway has acknowledged that it routes to the pod."""

# -- condition types of a ModelDeployment ----------------------------------------------------------
READY = "Ready"
"""Summary: True when every gateway routes to the model, or when it is scaled to zero and the next request starts it
(reason Idle)."""
ACCEPTED = "Accepted"
"""True when the spec is valid and its public name is not taken."""
MODEL_CACHED = "ModelCached"
"""True when the source's file is in the model directory and verified."""
WORKLOADS_READY = "WorkloadsReady"
"""True when the desired number of runtime pods is ready."""
ROUTABLE = "Routable"
"""True when every live gateway routes to every ready pod."""
SCALING_ACTIVE = "ScalingActive"
"""True when the autoscaler has fresh signals and is not disabled."""
PROGRESSING = "Progressing"
"""True while a rollout is in progress."""
CONDITIONS = (READY, ACCEPTED, MODEL_CACHED, WORKLOADS_READY, ROUTABLE, SCALING_ACTIVE, PROGRESSING)
"""Conditions in the order of the status. All are always present, with observedGeneration and a non-empty message."""

# -- reasons -------------------------------------------------------------------------------------------------
# Accepted
VALID = "Valid"
INVALID_SPEC = "InvalidSpec"
NAME_TAKEN = "NameTaken"
"""Another ModelDeployment of the namespace has the same public name, or is older and waits for the same name."""
SOURCE_NOT_ALLOWED = "SourceNotAllowed"
"""The source's scheme or address is refused by configuration."""
# ModelCached
CACHED = "Cached"
NO_SOURCE = "NoSource"
"""There is no file to fetch: the container contains its model."""
FETCHING = "Fetching"
SOURCE_UNREACHABLE = "SourceUnreachable"
DIGEST_MISMATCH = "DigestMismatch"
NO_SPACE = "NoSpace"
FETCH_FAILED = "FetchFailed"
"""The fetch Job failed without a termination message (killed, out of memory)."""
# WorkloadsReady, and Ready when they are its cause
RUNNING = "Running"
STARTING = "Starting"
WAITING_FOR_MODEL = "WaitingForModel"
IDLE = "Idle"
"""Scaled to zero without requests; the next request starts the model. Ready is True, unless the last start failed."""
SCALED_TO_ZERO = "ScaledToZero"
"""No replicas because spec.replicas is 0; requests are rejected with 503."""
SUSPENDED = "Suspended"
"""No replicas because spec.suspend is true; requests are rejected with 503."""
CRASH_LOOP = "CrashLoop"
"""The runtime exits repeatedly; the message contains its termination message."""
OOM_KILLED = "OOMKilled"
UNSCHEDULABLE = "Unschedulable"
"""No node has capacity for a pod, or the pod exceeds a quota of the namespace."""
IMAGE_PULL_FAILED = "ImagePullFailed"
REFUSED = "Refused"
"""The API server rejects a child or its pods: a policy, or a field that only the API server validates."""
STARTUP_DEADLINE_EXCEEDED = "StartupDeadlineExceeded"
# Routable
ADMITTED = "Admitted"
NO_REPLICAS = "NoReplicas"
WAITING_FOR_GATEWAYS = "WaitingForGateways"
NO_GATEWAY = "NoGateway"
# ScalingActive
FOLLOWING_DEMAND = "FollowingDemand"
AT_MAXIMUM = "AtMaximum"
SIGNALS_STALE = "SignalsStale"
DISABLED = "Disabled"
"""spec.scaling is not set, or suspend is."""
# Progressing
STABLE = "Stable"
ROLLING_OUT = "RollingOut"
NO_CAPACITY_FOR_SURGE = "NoCapacityForSurge"
"""There is no capacity for the candidate revision next to the stable one. False: the stable revision serves all
requests. True: after 10 s, the candidate replaces it replica by replica."""
REPLACING = "Replacing"
"""The stable revision is scaled down before the candidate starts, because the spec requires it (Recreate, surge
Never)."""
CANARY = "Canary"
"""The candidate has the share of spec.rollout.canary until the spec changes."""
# Any condition that has not been observed yet
PENDING = "Pending"
# Progressing; and Ready while it does not describe the newest generation
RECONCILE_FAILED = "ReconcileFailed"
"""Consecutive reconcile passes failed (for example: the API server rejects a write); the message has the cause."""

# -- capabilities of a runtime (status.capabilities) -------------------------------------------------------------
LOAD_REPORTS = "LoadReports"
"""The runtime reports its load. Without it, each gateway counts only its own requests, up to maxConcurrentRequests."""
DRAIN = "Drain"
"""The runtime rejects new requests only after the gateways have stopped routing to it, and finishes those in flight.
Without it, requests in flight may be cut off, and are retried on another replica where possible."""
PROGRESS = "Progress"
"""The runtime reports the progress of its start, which extends the startup deadline and is shown to waiting clients."""
CONTRACT_CAPABILITIES = (DRAIN, LOAD_REPORTS, PROGRESS)
"""Capabilities of a self-registering runtime; other containers have none of them."""

# -- reasons of events and gateway errors only --------------------------------------------------------------
SCALE_IGNORED = "ScaleIgnored"
"""Warning event: spec.replicas was changed while spec.scaling is set."""
SCALED = "Scaled"
"""Normal event: the autoscaler changed the number of replicas; the message has both numbers and the cause."""
KEY_REJECTED = "KeyRejected"
"""Warning event on the Secret of an API key: its digest is invalid, or an older Secret has the same digest."""
REVISION_CREATED = "RevisionCreated"
REVISION_RETIRED = "RevisionRetired"
