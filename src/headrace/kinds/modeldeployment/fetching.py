"""State of a source, and the Job that fetches it if one is needed."""

from __future__ import annotations

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.manifests.fetch_job import fetch_job
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.kinds.modeldeployment.shared_source import fetched_by, known_source, was_verified, while_verified_again
from headrace.kinds.modeldeployment.source import SourceState, observe_source, recorded_source
from headrace.kinds.modeldeployment.spec import Source
from headrace.reconcile.world import Child, Manifest, Observed, Settings, Signals


def source_state(
    resource: ModelDeployment,
    source: Source,
    before: Manifest,
    observed: Observed,
    signals: Signals,
    settings: Settings,
    fetcher: Manifest | None,
) -> tuple[SourceState, Child | None]:
    """Return the state of a source of a resource, and its fetch Job (None: this resource fetches nothing).

    A file that is already verified, or fetched by another model of the namespace (`fetcher`), is not fetched again
    (`headrace.kinds.modeldeployment.shared_source`). An existing Job is kept until Kubernetes removes it.

    After a fetch of a file other than the recorded one, the next Job requires the recorded digest: it deletes the file
    and retries until the source is restored.
    """
    fetch = fetch_job(resource, source, settings)
    recorded = recorded_source(source, before)
    again = fetch
    if recorded is not None and source.digest is None:
        again = fetch_job(resource, source, settings, expected=recorded["digest"])
    if not {fetch.key, again.key} & observed.children.keys():
        if (known := known_source(source, before)) is not None:
            return known, None
        if fetcher is not None and not was_verified(source, before):
            shared = fetched_by(fetcher, source, before)
            if shared is not None:
                return shared, None
    if again.key in observed.children:
        return observe_source(source, before, again.key, observed, signals), again
    state = observe_source(source, before, fetch.key, observed, signals)
    state = while_verified_again(state, source, before, signals)
    return state, again if state.condition.reason == v.DIGEST_MISMATCH else fetch
