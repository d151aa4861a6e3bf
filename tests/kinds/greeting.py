"""A second, small kind: a text in a ConfigMap, whose Ready is that of the ModelDeployment that it refers to.

It shows what a kind needs. Pure tests use it, and so do instances and operators: `PROGRAM` is the Python code with
which one starts that has the kind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from headrace.api import kinds
from headrace.api.kinds import Kind
from headrace.api.parts import Part
from headrace.api.schema import Schema
from headrace.api.vocabulary import API_VERSION, MODEL_DEPLOYMENT, READY
from headrace.kinds import registry
from headrace.kinds.children import child_of
from headrace.kinds.columns import condition
from headrace.kinds.controller import Controller
from headrace.kinds.references import named_in
from headrace.kinds.resource_kind import ResourceKind
from headrace.reconcile.conditions import Condition, conditions_of
from headrace.reconcile.world import Manifest, Observed, Outcome, Settings, Signals

PROGRAM = """\
import sys
from greeting import GREETING
from headrace.kinds.registry import register
register(GREETING)
from {module} import main
sys.exit(main())
"""
"""Starts the `main` of a module with the kind. `greeting` must be on the path."""


class GreetingSpec(Part):
    """What it says, and of whom."""

    text: str = Field(min_length=1, max_length=200, description="Text of the greeting.")
    model_ref: str = Field(min_length=1, max_length=63, description="Name of a ModelDeployment of the namespace.")


def reconcile(
    manifest: Manifest, observed: Observed, signals: Signals, settings: Settings, memory: int | None, /
) -> Outcome[int]:
    """Return the ConfigMap and the condition; `memory` counts the passes."""
    del settings
    ready = _ready(manifest["spec"]["modelRef"], next(iter(observed.references.values()), None))
    child = child_of(GREETING, manifest, kinds.CONFIG_MAP, {"data": {"text": manifest["spec"]["text"]}})
    conditions = conditions_of(manifest, [ready], signals.wall)
    return Outcome((child,), {"conditions": conditions}, (memory or 0) + 1)


def _ready(name: str, model: Manifest | None) -> Condition:
    if model is None:
        return Condition(READY, "False", "ModelNotFound", f"the ModelDeployment {name} does not exist")
    found = condition(model, READY)
    if found.get("status") == "True":
        return Condition(READY, "True", "ModelReady", f"the ModelDeployment {name} is ready")
    return Condition(READY, "False", "ModelNotReady", f"the ModelDeployment {name} is not ready: {found.get('reason')}")


KIND = Kind(API_VERSION, "Greeting", "greetings", "greeting", ("hi",))
GREETING = ResourceKind(
    kind=KIND,
    schema=lambda: Schema(KIND, "A greeting of a model.", GreetingSpec),
    controller=lambda: Controller(reconcile),
    children=(kinds.CONFIG_MAP,),
    label="headrace.dev/greeting",
    suffix="greeting",
    references=named_in("modelRef", MODEL_DEPLOYMENT),
)


def greeting(name: str, model: str, **spec: Any) -> Manifest:
    """Return a resource, as a user writes it."""
    spec = {"text": "good day", "modelRef": model, **spec}
    return {"apiVersion": API_VERSION, "kind": KIND.kind, "metadata": {"name": name}, "spec": spec}


@contextlib.contextmanager
def registered(resource: ResourceKind = GREETING) -> Iterator[None]:
    """Have a kind in this process for as long as the context is entered."""
    registry.register(resource)
    try:
        yield
    finally:
        del registry.RESOURCE_KINDS[resource.kind.kind], registry.KINDS[resource.kind.kind]
