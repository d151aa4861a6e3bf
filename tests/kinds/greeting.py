"""A second, small kind: a text in a ConfigMap, whose Ready is that of the ModelDeployment that it refers to.

It owns a Service too, as a ModelDeployment of its name does, and on request a cluster-scoped PriorityClass.

It shows what a kind needs. Pure tests use it, and so do instances and operators: `PROGRAM` is the Python code with
which one starts that has the kind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import Field

from headrace.api import kinds
from headrace.api.kinds import Kind
from headrace.api.parts import Conditions, Part
from headrace.api.schema import Schema
from headrace.api.vocabulary import API_VERSION, MANAGED_BY, MODEL_DEPLOYMENT, READY, REFUSED
from headrace.kinds import registry
from headrace.kinds.columns import AGE, NAME, Column, PrinterColumn, condition
from headrace.kinds.controller import Controller
from headrace.kinds.resource_kind import ResourceKind
from headrace.reconcile.conditions import Condition, rendered
from headrace.reconcile.ownership import owner_annotation
from headrace.reconcile.world import Child, ChildKey, Manifest, Observed, Outcome, ResourceKey, Settings, Signals

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
    priority: int | None = Field(default=None, ge=1, le=9, description="Value of a PriorityClass of its own.")


class GreetingStatus(Part):
    """What was observed."""

    conditions: Conditions | None = None


def references(manifest: Manifest) -> Iterable[ResourceKey]:
    """The ModelDeployment."""
    spec = manifest.get("spec")
    name = spec.get("modelRef") if isinstance(spec, dict) else None
    return (ResourceKey(MODEL_DEPLOYMENT, manifest["metadata"]["namespace"], name),) if isinstance(name, str) else ()


def reconcile(
    manifest: Manifest, observed: Observed, signals: Signals, settings: Settings, memory: int | None, /
) -> Outcome[int]:
    """Return the children and the condition; `memory` counts the passes."""
    del settings
    (model,) = references(manifest)
    ready = _ready(model.name, observed.references.get(model))
    if observed.refused:
        ready = Condition(READY, "False", REFUSED, "; ".join(observed.refused.values()))
    metadata = manifest["metadata"]
    before = manifest.get("status", {}).get("conditions", [])
    conditions = rendered([ready], before, metadata["generation"], signals.wall)
    return Outcome(_children(manifest), {"conditions": conditions}, (memory or 0) + 1)


def _ready(name: str, model: Manifest | None) -> Condition:
    if model is None:
        return Condition(READY, "False", "ModelNotFound", f"the ModelDeployment {name} does not exist")
    found = condition(model, READY)
    if found.get("status") == "True":
        return Condition(READY, "True", "ModelReady", f"the ModelDeployment {name} is ready")
    return Condition(READY, "False", "ModelNotReady", f"the ModelDeployment {name} is not ready: {found.get('reason')}")


def _children(manifest: Manifest) -> tuple[Child, ...]:
    metadata, spec = manifest["metadata"], manifest["spec"]
    labels = {MANAGED_BY: "headrace", GREETING.label: metadata["name"]}
    owner = {name: manifest[name] for name in ("apiVersion", "kind")} | {
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
    }
    owned = {
        "name": GREETING.child_name(metadata["name"]),
        "namespace": metadata["namespace"],
        "labels": labels,
        "ownerReferences": [owner],
    }
    children: list[Manifest] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": owned, "data": {"text": spec["text"]}},
        {"apiVersion": "v1", "kind": "Service", "metadata": owned, "spec": {"selector": labels, "ports": [PORT]}},
    ]
    if spec.get("priority") is not None:
        name = GREETING.cluster_child_name(metadata["namespace"], metadata["name"])
        annotated = {"name": name, "labels": labels, "annotations": owner_annotation(manifest)}
        names = {"apiVersion": PRIORITY_CLASS.api_version, "kind": PRIORITY_CLASS.kind}
        children.append({**names, "metadata": annotated, "value": spec["priority"]})
    return tuple(Child(ChildKey.of(child), child) for child in children)


PORT = {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}
PRIORITY_CLASS = Kind(
    "scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", "priorityclass", ("pc",), namespaced=False
)
KIND = Kind(API_VERSION, "Greeting", "greetings", "greeting", ("hi",))
GREETING = ResourceKind(
    kind=KIND,
    schema=lambda: Schema(KIND, "A greeting of a model.", GreetingSpec, GreetingStatus, ()),
    controller=lambda: Controller(reconcile),
    conditions=(READY,),
    children=(kinds.CONFIG_MAP, kinds.SERVICE, PRIORITY_CLASS),
    label="headrace.dev/greeting",
    suffix="greeting",
    printer_columns=(PrinterColumn("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),),
    columns=(NAME, Column("READY", lambda o: str(condition(o, READY).get("status", "Unknown"))), AGE),
    references=references,
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
