"""HTTP headers of headrace, and the body-size and reason vocabulary of its HTTP errors."""

from __future__ import annotations

REASON = "x-headrace-reason"
"""On every error of gateway and runtimes: the CamelCase reason (see `headrace.api.vocabulary` and below)."""
DECISION = "x-headrace-decision"
"""On answers of the gateway: which replica was chosen and why, e.g. `smollm2-5d9c/least-loaded`."""
REQUEST_ID = "x-request-id"
"""Taken from the client when it is sane, else made; forwarded, logged, and returned."""

# Reasons that only HTTP errors carry.
MODEL_NOT_FOUND = "ModelNotFound"
SATURATED = "Saturated"
"""429: the queue (count or bytes) is full. Retry-After says when to come back."""
QUEUE_TIMEOUT = "QueueTimeout"
"""503: held until the deadline without a ready replica."""
REPLICA_LOST = "ReplicaLost"
"""In-stream error, code `replica_lost`: the replica died after it had sent tokens."""
DRAINING = "Draining"
"""503 of a runtime that no longer takes work: the gateway retries elsewhere."""
BODY_TOO_LARGE = "BodyTooLarge"
INVALID_REQUEST = "InvalidRequest"
INVALID_API_KEY = "InvalidApiKey"
