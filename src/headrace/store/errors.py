"""Errors of the object store."""

from __future__ import annotations

from headrace.agent.errors import AgentError


class StoreError(AgentError):
    """An error of the object store."""

    reason = "StoreError"


class StoreFull(StoreError):
    """A quota or the store is full, and evicting unleased objects does not free enough."""

    http_status = 507
    reason = "StoreFull"


class ObjectNotFound(StoreError):
    """The store has no such object of this tenant, or the object was never sealed."""

    http_status = 404
    reason = "ObjectNotFound"


class WrongDigest(StoreError):
    """The content of an object does not have the digest that is its key; the object was discarded."""

    http_status = 422
    reason = "WrongDigest"


class StillMapped(StoreError):
    """An object cannot be sealed while a process can write into it."""

    http_status = 409
    reason = "StillMapped"


class InvalidObject(StoreError):
    """The description of an object is invalid: its class, size, key or digest."""

    http_status = 422
    reason = "InvalidObject"
