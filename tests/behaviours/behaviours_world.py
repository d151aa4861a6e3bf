"""One behaviour suite, two worlds: what a behaviour may do to the world that it runs in.

The classes in this folder say what a user of headrace can rely on, whether pods are processes or containers. They are
no tests by themselves: `tests/acceptance` runs them against an instance on this machine (`make test`), `e2e` against a
cluster (`make e2e`), each by a subclass and the fixtures that a class names.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

PUBLIC_NAME = "smol"
SCALING = {"minReplicas": 0, "maxReplicas": 1, "idleTimeoutSeconds": 2}
LOOK_SECONDS = 0.05
BROKEN_BYTES = 5_000_000
"""So much of the model's file is read before the end of it is missed."""
Found = TypeVar("Found")
Manifest = dict[str, Any]
Part = Literal["gateway", "nats"]
"""What runs once for everybody, and may be killed."""


class World(Protocol):
    """A headrace that runs, seen from one namespace in which nothing else happens."""

    @property
    def base_url(self) -> str:
        """Where the openai SDK is pointed: ends with /v1."""

    @property
    def api_key(self) -> str:
        """A key that opens the namespace (anything where none is needed)."""

    @property
    def patience(self) -> float:
        """Seconds in which anything ought to have happened: not a promise, a limit for waiting."""

    @property
    def model_uri(self) -> str:
        """A source of SmolLM2."""

    @property
    def engine_image(self) -> str:
        """Image of headrace's engine, for use as a custom container."""

    def uri(self, file: str) -> str:
        """Return the source of a file that `put` brings, or has not brought yet."""

    def put(self, file: str, content: bytes) -> None:
        """Make a file, to be used as a source."""

    def apply(self, manifest: Manifest) -> None:
        """Apply a manifest, as a user does."""

    def delete(self, name: str) -> None:
        """Delete a ModelDeployment."""

    def get(self, name: str) -> Manifest:
        """Return a ModelDeployment."""

    def find(self, kind: str, name: str) -> Manifest | None:
        """Return an object of any kind (by plural), or None."""

    def remove(self, kind: str, name: str) -> None:
        """Delete an object of any kind (by plural)."""

    def describe(self, name: str) -> str:
        """Return what a person is shown who asks for a ModelDeployment's description."""

    def scale(self, name: str, replicas: int) -> None:
        """Set the number of replicas through the scale subresource."""

    def lives(self, name: str) -> list[str]:
        """Return one id for each running life of a replica: another one after a restart."""

    def kill(self, name: str) -> None:
        """`kill -9` the model's only replica."""

    def kill_part(self, part: Part) -> None:
        """`kill -9` one process of a part."""

    def without_nats(self) -> contextlib.AbstractContextManager[None]:
        """Take NATS away while the context is entered."""

    def held(self, public_name: str) -> float:
        """Return how many requests for a model the gateways hold."""

    def is_routed(self, public_name: str) -> bool:
        """Whether every gateway has the route of a model."""

    def part_is_whole(self, part: Part) -> bool:
        """Whether every process of a part runs and is ready, the one killed last included."""


@dataclass(frozen=True)
class Engine:
    """`transformers serve`, which nobody here wrote, as a world has it."""

    image: str
    weights: str
    """Where it finds what `behaviours_weights` made: the only name of its model that it does not refuse."""


def until(look: Callable[[], Found | None], what: str | Callable[[], object], seconds: float = 60) -> Found:
    """Return what `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {what() if callable(what) else what}"
        time.sleep(LOOK_SECONDS)


def held_requests(metrics: str, public_name: str) -> float | None:
    """Return how many requests for a model a gateway holds, according to its metrics; None: it has no route."""
    for line in metrics.splitlines():
        if line.startswith("headrace_gateway_held_requests{") and f'"{public_name}"' in line:
            return float(line.rpartition(" ")[2])
    return None


def condition(world: World, name: str, type_: str) -> Manifest:
    """Return a condition of a ModelDeployment, empty where there is none."""
    conditions = world.get(name).get("status", {}).get("conditions", [])
    return next((dict(c) for c in conditions if c["type"] == type_), {})


def wait(world: World, name: str, reason: str, type_: str = "Ready") -> Manifest:
    """Return the condition once it has the reason, and speaks of the newest spec."""

    def look() -> Manifest | None:
        resource = world.get(name)
        conditions = resource.get("status", {}).get("conditions", [])
        found = next((dict(c) for c in conditions if c["type"] == type_ and c["reason"] == reason), None)
        current = found is not None and found["observedGeneration"] == resource["metadata"]["generation"]
        return found if current else None

    return until(
        look,
        lambda: f"{name} has {type_} for the reason {reason}; it has {condition(world, name, type_)}",
        world.patience,
    )


def revisions(world: World, name: str) -> list[str]:
    """Return the names of a model's revisions."""
    return [item["name"] for item in world.get(name).get("status", {}).get("revisions", [])]


def model(uri: str | None, name: str = PUBLIC_NAME, **spec: Any) -> Manifest:
    """Return a resource that serves a source, or what its engine has already, with parts of its spec replaced."""
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {} if uri is None else {"source": {"uri": uri}},
            "runtime": {"llm": {"maxModelLen": 512, "maxConcurrentRequests": 4}},
            **spec,
        },
    }
