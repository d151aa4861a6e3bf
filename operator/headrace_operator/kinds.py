"""The kinds that the operator looks at, and which of their objects: the API server sends no others."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.api import kinds
from headrace.api.kinds import Kind
from headrace.api.vocabulary import API_KEY_LABEL, MANAGED_BY
from headrace.kinds.registry import RESOURCE_KINDS, child_kinds

MANAGED = f"{MANAGED_BY}=headrace"


@dataclass(frozen=True, slots=True)
class Watched:
    """A kind, and the label selector of the objects that concern us."""

    api_version: str
    kind: str
    plural: str
    selector: str | None = MANAGED

    @staticmethod
    def of(kind: Kind, selector: str | None = MANAGED) -> Watched:
        """Return which objects of a kind are watched: by default those that headrace made."""
        return Watched(kind.api_version, kind.kind, kind.plural, selector)

    @property
    def group(self) -> str:
        """The API group; empty for the core."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """The version in the group."""
        return self.api_version.rpartition("/")[2]

    def path(self, namespace: str | None, name: str | None = None) -> str:
        """Return the path of an object, of a namespace's list, or (None) of the list of all."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        scope = f"/namespaces/{namespace}" if namespace is not None else ""
        return f"{root}{scope}/{self.plural}" + (f"/{name}" if name is not None else "")


POD = Watched.of(kinds.POD)
SECRET = Watched.of(kinds.SECRET, API_KEY_LABEL)
EVENT = Watched.of(kinds.EVENT)
CLAIM = Watched("v1", "PersistentVolumeClaim", "persistentvolumeclaims")


def watched_resources() -> tuple[Watched, ...]:
    """Return our own kinds, all of whose objects are watched."""
    return tuple(Watched.of(resource.kind, selector=None) for resource in RESOURCE_KINDS.values())


def watched_children() -> tuple[Watched, ...]:
    """Return the kinds of children."""
    return tuple(Watched.of(kind) for kind in child_kinds())


def watched_kinds() -> dict[str, Watched]:
    """Return every watched kind by its name: they are distinct without their groups."""
    return {each.kind: each for each in (*watched_resources(), POD, SECRET, *watched_children())}
