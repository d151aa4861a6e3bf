"""In which order a pass applies and deletes children, and what it leaves out after the cluster refused one.

Prerequisites of pods are applied first, then workloads, then the rest; within a phase in the order in which the rule
lists them. Once a prerequisite or a workload is refused, no further workload is applied in this pass, and none is
deleted: pods must not exist without their network policies, and a revision that serves must not be removed for one that
the cluster does not accept. The next decision of the rule knows the refusal. Everything else is applied and deleted
regardless. Pure: the reconcile loop calls the API server.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from headrace.reconcile.world import ApplyPhase, Child, ChildKey


def to_apply(wanted: Iterable[Child], refused: Collection[Child]) -> Iterator[Child]:
    """Yield the children to apply, in order.

    Args:
        wanted: the whole wanted set.
        refused: what was refused so far in this pass: the caller adds to it before it takes the next child.
    """
    for child in sorted(wanted, key=lambda child: child.phase):
        if child.phase is not ApplyPhase.WORKLOAD or not _holds_workloads(refused):
            yield child


def to_delete(wanted: Collection[Child], observed: Iterable[ChildKey], refused: Collection[Child]) -> list[ChildKey]:
    """Return the observed children to delete, in order.

    A key says no phase: while workloads are held, everything of the kinds that the wanted workloads have stays.

    Args:
        wanted: the whole wanted set.
        observed: what exists.
        refused: what was refused in this pass.
    """
    surplus = sorted(set(observed) - {child.key for child in wanted})
    if not _holds_workloads(refused):
        return surplus
    held = {_group_kind(child.key) for child in (*wanted, *refused) if child.phase is ApplyPhase.WORKLOAD}
    return [key for key in surplus if _group_kind(key) not in held]


def _holds_workloads(refused: Collection[Child]) -> bool:
    return any(child.phase <= ApplyPhase.WORKLOAD for child in refused)


def _group_kind(key: ChildKey) -> tuple[str, str]:
    return key.api_version, key.kind
