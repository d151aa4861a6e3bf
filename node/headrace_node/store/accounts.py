"""Bytes and objects, counted against the quotas of the store, of each tenant and of each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from headrace.errors import CannotStart
from headrace.store.keys import ObjectClass

_OBJECTS = 8192


@dataclass(frozen=True, slots=True)
class Limits:
    """The quotas of a store, in bytes of memory (sizes of objects are rounded up to pages)."""

    total_bytes: int
    tenant_bytes: int
    """Of each tenant that `tenants` does not name."""
    tenants: Mapping[str, int] = field(default_factory=dict)
    classes: Mapping[ObjectClass, int] = field(default_factory=dict)
    """Of all tenants together; a class that is not named may use the whole store."""
    objects: int = _OBJECTS
    """Most objects and drafts; each is one open descriptor."""
    tenant_objects: int = _OBJECTS // 2
    pool_bytes: int = 0
    """For segments that are ready for the next objects; part of `total_bytes`, given up when objects need it."""

    def check(self, node_bytes: int) -> None:
        """Compare the quotas with each other and with the memory of the node. Raises CannotStart."""
        if self.total_bytes > node_bytes:
            raise _too_large("the store", self.total_bytes, "the memory of the node", node_bytes)
        parts = {"the quota of each tenant": self.tenant_bytes, "the pool": self.pool_bytes}
        parts |= {f"the quota of tenant {name}": quota for name, quota in self.tenants.items()}
        parts |= {f"the quota of class {name}": quota for name, quota in self.classes.items()}
        for name, quota in parts.items():
            if not 0 <= quota <= self.total_bytes:
                raise _too_large(name, quota, "the store", self.total_bytes)


@dataclass(frozen=True, slots=True)
class Scope:
    """One quota: what counts against it, and how much of it is used."""

    name: str
    limit: int
    used: int
    tenant: str | None = None
    object_class: ObjectClass | None = None
    counts_objects: bool = False

    def excess(self, size: int) -> int:
        """Return by how much one more object of `size` bytes exceeds the quota; not positive if it fits."""
        return self.used + (1 if self.counts_objects else size) - self.limit

    def covers(self, tenant: str, object_class: ObjectClass) -> bool:
        """Whether objects of this tenant and class count."""
        return self.tenant in {None, tenant} and self.object_class in {None, object_class}


class Accounts:
    """The memory in use, by tenant and class."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bytes: Counter[tuple[str, ObjectClass]] = Counter()
        self.objects: Counter[str] = Counter()

    def add(self, tenant: str, object_class: ObjectClass, size: int) -> None:
        """Count an object or a draft."""
        self.bytes[tenant, object_class] += size
        self.objects[tenant] += 1

    def remove(self, tenant: str, object_class: ObjectClass, size: int) -> None:
        """Stop counting an object or a draft."""
        self.bytes[tenant, object_class] -= size
        self.objects[tenant] -= 1
        if not self.objects[tenant]:
            del self.objects[tenant]
        if not self.bytes[tenant, object_class]:
            del self.bytes[tenant, object_class]

    @property
    def total_bytes(self) -> int:
        """Bytes of all objects and drafts."""
        return self.bytes.total()

    def scopes(self, tenant: str, object_class: ObjectClass) -> Iterator[Scope]:
        """Yield the quotas that an object of this tenant and class counts against."""
        limits, used = self.limits, self.bytes
        yield Scope("the store's bytes", limits.total_bytes, used.total())
        own = sum(size for (name, _), size in used.items() if name == tenant)
        yield Scope(f"the quota of tenant {tenant}", limits.tenants.get(tenant, limits.tenant_bytes), own, tenant)
        if object_class in limits.classes:
            same = sum(size for (_, name), size in used.items() if name == object_class)
            yield Scope(
                f"the quota of class {object_class}", limits.classes[object_class], same, object_class=object_class
            )
        yield Scope("the number of objects", limits.objects, self.objects.total(), counts_objects=True)
        yield Scope(
            f"the number of objects of tenant {tenant}",
            limits.tenant_objects,
            self.objects[tenant],
            tenant,
            counts_objects=True,
        )


def _too_large(name: str, value: int, whole: str, limit: int) -> CannotStart:
    return CannotStart(
        f"{name} ({value:,} bytes) is larger than {whole} ({limit:,} bytes), or negative",
        hint=f"Reduce {name}",
    )
