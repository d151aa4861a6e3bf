"""Files of a model's LoRA adapters: each is a source with a fetch Job and a record in `status.adapters`.

The record has what `status.source` and the condition ModelCached have of the model's own file, so that the rules for
sources apply to adapters unchanged. Replicas of a revision start when the model and all its adapters are verified.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.fetching import source_state
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.kinds.modeldeployment.source import SourceState
from headrace.kinds.modeldeployment.spec import Adapter
from headrace.reconcile.conditions import clipped
from headrace.reconcile.world import Child, Manifest, Observed, Settings, Signals
from headrace.sources.location import redacted


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """State of one adapter's file."""

    adapter: Adapter
    state: SourceState
    fetch: Child | None
    """The Job that fetches it; None when none is needed."""

    @property
    def status(self) -> Manifest:
        """The entry of `status.adapters`."""
        condition = self.state.condition
        file = self.state.recorded or {"uri": redacted(self.adapter.uri)}
        return {"name": self.adapter.name, **file, "reason": condition.reason, "message": clipped(condition.message)}


def adapter_files(
    resource: ModelDeployment, before: Manifest, observed: Observed, signals: Signals, settings: Settings
) -> tuple[AdapterFile, ...]:
    """Return the state of every adapter's file, in the order of the spec; `before` is the present status."""
    return tuple(
        AdapterFile(
            adapter,
            *source_state(
                resource,
                adapter,
                _status_of_source(adapter.name, before),
                observed,
                signals_of(adapter.uri, signals),
                settings,
                None,
            ),
        )
        for adapter in resource.spec.runtime.adapters
    )


def all_files(model: SourceState, adapters: Sequence[AdapterFile]) -> SourceState:
    """Return the state of the first file that is not cached, else that of the model's own file."""
    if not model.cached:
        return model
    missing = next((each for each in adapters if not each.state.cached), None)
    if missing is None:
        return model
    condition = missing.state.condition
    return replace(
        missing.state,
        condition=replace(condition, message=f"adapter {missing.adapter.name}: {condition.message}"),
    )


def signals_of(uri: str, signals: Signals) -> Signals:
    """Return the signals with the progress of this source's fetch only: the Jobs of a resource share one subject."""
    other = signals.fetch is not None and signals.fetch.uri != redacted(uri)
    return replace(signals, fetch=None) if other else signals


def _status_of_source(name: str, before: Manifest) -> Manifest:
    """Return a status in which the adapter is the model's source."""
    entry: Manifest = next((each for each in before.get("adapters", []) if each["name"] == name), {})
    cached = {
        "type": v.MODEL_CACHED,
        "status": "True" if entry.get("reason") == v.CACHED else "False",
        "reason": entry.get("reason", v.PENDING),
        "message": entry.get("message", ""),
    }
    others = (each for each in before.get("conditions", []) if each["type"] != v.MODEL_CACHED)
    source = {key: value for key, value in entry.items() if key in ("uri", "digest", "path", "bytes")}
    return {"conditions": [cached, *others], **({"source": source} if "digest" in source else {})}
