"""Order in which a pass applies and deletes children, also after a refusal.

Prerequisites of pods are applied first, then workloads, then the others; within a phase in the order of the outcome.
Once a prerequisite or a workload is refused, no further workload is applied in this pass, and none is deleted: pods
must not exist without their network policies, and a serving revision must not be removed for a refused one. The rule
is then called again with the refusal. All other children are applied and deleted in any case. Pure: the reconcile loop
calls the API server.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from headrace.reconcile.world import ApplyPhase, Child, ChildKey


def to_apply(desired: Iterable[Child], refused: Collection[Child]) -> Iterator[Child]:
    """Yield the children to apply, in order.

    Args:
        desired: all desired children.
        refused: refusals of this pass; the caller adds a refused child before it requests the next one.
    """
    for child in sorted(desired, key=lambda child: child.phase):
        if child.phase is not ApplyPhase.WORKLOAD or not _holds_workloads(refused):
            yield child


def to_delete(desired: Collection[Child], observed: Iterable[ChildKey], refused: Collection[Child]) -> list[ChildKey]:
    """Return the observed children to delete, in order.

    A key has no phase. So while workloads are held, all children of the desired workloads' kinds are kept.

    Args:
        desired: all desired children.
        observed: the existing children.
        refused: refusals of this pass.
    """
    surplus = sorted(set(observed) - {child.key for child in desired})
    if not _holds_workloads(refused):
        return surplus
    held = {_group_kind(child.key) for child in (*desired, *refused) if child.phase is ApplyPhase.WORKLOAD}
    return [key for key in surplus if _group_kind(key) not in held]


def _holds_workloads(refused: Collection[Child]) -> bool:
    return any(child.phase <= ApplyPhase.WORKLOAD for child in refused)


def _group_kind(key: ChildKey) -> tuple[str, str]:
    return key.api_version, key.kind
