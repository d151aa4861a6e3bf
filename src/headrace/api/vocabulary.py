"""The words of the API: group, labels, annotations, condition types and every reason.

A reason is part of the API: users write alerts on it. Each constant says who sets it and when.
"""

from __future__ import annotations

GROUP = "headrace.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
CATEGORY = "headrace"
FIELD_MANAGER = "headrace-operator"
MODEL_DEPLOYMENT = "ModelDeployment"
"""The kind of resource that serves a model."""

# -- labels and annotations ------------------------------------------------------------------------
MANAGED_BY = "app.kubernetes.io/managed-by"
"""On every child, value `headrace`."""
MODEL_LABEL = "headrace.dev/model-deployment"
"""On every child of a ModelDeployment and its pods: the ModelDeployment's name."""
REVISION_LABEL = "headrace.dev/revision"
"""On a revision's Deployment and pods: the revision hash."""
COMPONENT_LABEL = "headrace.dev/component"
"""On children and pods: `runtime` or `fetch`."""
COMPONENT_RUNTIME = "runtime"
COMPONENT_FETCH = "fetch"
API_KEY_LABEL = "headrace.dev/api-key"
"""On a Secret that is an API key; its data: `sha256` (hex digest of the key) and optionally `models` (comma-separated
public names that the key may call)."""
REVISION_INFO_ANNOTATION = "headrace.dev/revision-info"
"""On a revision's Deployment: what the revision is, as JSON (`headrace.kinds.modeldeployment.revision_info`)."""
PUBLIC_NAME_ANNOTATION = "headrace.dev/public-name"
"""On a Deployment of a build before release 0.1.0: the public name that its pods serve. Only read."""
ENGINE_MODEL_ANNOTATION = "headrace.dev/engine-model"
"""On the Deployment of a custom container of a build before release 0.1.0: the name by which its engine knows the
model; empty: the public name. Only read."""
ANNOUNCES_LABEL = "headrace.dev/announces"
"""On the Deployment and the pods of a custom container that registers itself: `true`."""
NUDGE_ANNOTATION = "headrace.dev/nudge"
"""On a Deployment whose pods a quota refuses: how many pods of other revisions there are."""
OWNER_ANNOTATION = "headrace.dev/owner"
"""On a cluster-scoped child: which resource owns it (`headrace.reconcile.ownership`)."""
ROUTABLE_GATE = "headrace.dev/routable"
"""Pod readiness gate: True once every live gateway has acknowledged that it routes to the pod."""
FINALIZER = "headrace.dev/cleanup"

# -- condition types of a ModelDeployment ----------------------------------------------------------
READY = "Ready"
"""Summary: True when every gateway has admitted the route, or when at zero and wakeable (reason Idle)."""
ACCEPTED = "Accepted"
"""The spec is valid and its names are free."""
MODEL_CACHED = "ModelCached"
"""The source's file is in the model directory and verified."""
WORKLOADS_READY = "WorkloadsReady"
"""The wanted number of runtime pods run and are ready; False/Idle-like reasons at zero."""
ROUTABLE = "Routable"
"""Every live gateway routes to every ready pod."""
SCALING_ACTIVE = "ScalingActive"
"""The autoscaler has fresh signals and is free to act."""
PROGRESSING = "Progressing"
"""A rollout is in motion."""
CONDITIONS = (READY, ACCEPTED, MODEL_CACHED, WORKLOADS_READY, ROUTABLE, SCALING_ACTIVE, PROGRESSING)
"""Always present, in this order, each with observedGeneration and a non-empty message."""

# -- reasons -------------------------------------------------------------------------------------------------
# Accepted
VALID = "Valid"
INVALID_SPEC = "InvalidSpec"
NAME_TAKEN = "NameTaken"
"""Another ModelDeployment of the namespace has the same public model name, or is older and waits for it too."""
SOURCE_NOT_ALLOWED = "SourceNotAllowed"
"""The source's scheme or address is refused by configuration."""
# ModelCached
CACHED = "Cached"
NO_SOURCE = "NoSource"
"""There is no file to fetch: the container brings its model."""
FETCHING = "Fetching"
SOURCE_UNREACHABLE = "SourceUnreachable"
DIGEST_MISMATCH = "DigestMismatch"
NO_SPACE = "NoSpace"
FETCH_FAILED = "FetchFailed"
"""The fetch child failed without saying why (killed, out of memory)."""
# WorkloadsReady, and Ready when they are its cause
RUNNING = "Running"
STARTING = "Starting"
WAITING_FOR_MODEL = "WaitingForModel"
IDLE = "Idle"
"""Scaled to zero: there are no requests, and the next one starts it. Ready is True, unless its last start failed."""
SCALED_TO_ZERO = "ScaledToZero"
"""At zero because spec.replicas is 0; requests are refused with 503."""
SUSPENDED = "Suspended"
"""At zero because spec.suspend is true; requests are refused with 503."""
CRASH_LOOP = "CrashLoop"
"""The runtime keeps exiting; the message quotes its termination message."""
OOM_KILLED = "OOMKilled"
UNSCHEDULABLE = "Unschedulable"
"""There is no room: on no node, or in the namespace's quota."""
IMAGE_PULL_FAILED = "ImagePullFailed"
REFUSED = "Refused"
"""The cluster refuses a child, or its pods (a field that only an API server knows to be wrong, a policy)."""
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
"""There is no room for the new revision beside the old one. False: the old one serves on. True: after 10 s it gives way
replica by replica."""
REPLACING = "Replacing"
"""The old revision gives way before the new one comes, because the spec says so (Recreate, surge Never)."""
CANARY = "Canary"
"""The new revision has the share that spec.rollout.canary gives it, and keeps it until the spec changes."""
# any condition that was not observed yet
PENDING = "Pending"
# Progressing; and Ready, while it does not speak of the newest spec
RECONCILE_FAILED = "ReconcileFailed"
"""Reconcile passes fail one after another (a write that the API server does not answer well); the message says why."""

# -- capabilities of a runtime (status.capabilities): what is missing degrades by name ---------------------------
LOAD_REPORTS = "LoadReports"
"""It says how busy it is; else gateways count their own requests alone, up to maxConcurrentRequests each."""
DRAIN = "Drain"
"""It waits for the gateways before it refuses work, and finishes what runs; else what it still runs may be cut off, and
requests are asked for elsewhere."""
PROGRESS = "Progress"
"""It says how far its start is, which extends the startup deadline and is told to waiting clients."""
CONTRACT_CAPABILITIES = (DRAIN, LOAD_REPORTS, PROGRESS)
"""Of a runtime that announces itself; what is spoken for has none."""

# -- reasons that only events and gateway errors carry ------------------------------------------------------
SCALE_IGNORED = "ScaleIgnored"
"""Warning event: spec.replicas was changed while spec.scaling rules."""
SCALED = "Scaled"
"""Normal event: the autoscaler changed the number of replicas; the message says from, to and why."""
KEY_REJECTED = "KeyRejected"
"""Warning event about the Secret of an API key: it is broken, or holds the digest of an older one."""
REVISION_CREATED = "RevisionCreated"
REVISION_RETIRED = "RevisionRetired"
