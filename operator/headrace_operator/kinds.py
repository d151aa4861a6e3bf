"""The kinds that the operator watches, with the label selectors of their objects."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.api import kinds
from headrace.api.kinds import Kind
from headrace.api.vocabulary import API_KEY_LABEL, MANAGED_BY
from headrace.kinds.registry import RESOURCE_KINDS, child_kinds

MANAGED = f"{MANAGED_BY}=headrace"


@dataclass(frozen=True, slots=True)
class Watched:
    """A kind, and the label selector of the watched objects."""

    api_version: str
    kind: str
    plural: str
    selector: str | None = MANAGED
    namespaced: bool = True

    @staticmethod
    def of(kind: Kind, selector: str | None = MANAGED) -> Watched:
        """Return the watch of a kind: by default of the objects that headrace created."""
        return Watched(kind.api_version, kind.kind, kind.plural, selector, kind.namespaced)

    @property
    def group(self) -> str:
        """The API group; empty for the core."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """The version in the group."""
        return self.api_version.rpartition("/")[2]

    def path(self, namespace: str | None, name: str | None = None) -> str:
        """Return the path of an object, of a namespace's list, or (None) of the list of all namespaces.

        A cluster-scoped kind has one list, whatever the namespace.
        """
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace is not None else ""
        return f"{root}{scope}/{self.plural}" + (f"/{name}" if name is not None else "")


POD = Watched.of(kinds.POD)
SECRET = Watched.of(kinds.SECRET, API_KEY_LABEL)
EVENT = Watched.of(kinds.EVENT)
CLAIM = Watched("v1", "PersistentVolumeClaim", "persistentvolumeclaims")


def watched_resources() -> tuple[Watched, ...]:
    """Return headrace's kinds, of which all objects are watched."""
    return tuple(Watched.of(resource.kind, selector=None) for resource in RESOURCE_KINDS.values())


def watched_children() -> tuple[Watched, ...]:
    """Return the kinds of children."""
    return tuple(Watched.of(kind) for kind in child_kinds())


def watched_kinds(namespaces: tuple[str, ...] = ()) -> dict[str, Watched]:
    """Return the kinds that an operator watches, by name: they are distinct without their groups.

    An operator that is restricted to namespaces has no rights to cluster-scoped objects; without namespaces it is not
    restricted.
    """
    every = (*watched_resources(), POD, SECRET, *watched_children())
    return {each.kind: each for each in every if each.namespaced or not namespaces}
