"""The order in which a pass applies and deletes children, and what a refusal leaves out."""

from __future__ import annotations

import pytest

from headrace.reconcile.sequence import to_apply, to_delete
from headrace.reconcile.world import ApplyPhase, Child, ChildKey

PHASES = {
    "ServiceAccount": ApplyPhase.PREREQUISITE,
    "NetworkPolicy": ApplyPhase.PREREQUISITE,
    "Deployment": ApplyPhase.WORKLOAD,
}
WANTED = ("Service/s", "Deployment/new", "Job/fetch", "NetworkPolicy/n", "Deployment/old", "ServiceAccount/a")
BEFORE_OTHERS = ("NetworkPolicy/n", "ServiceAccount/a", "Deployment/new", "Deployment/old")
OTHERS = ("Service/s", "Job/fetch")


@pytest.mark.parametrize(
    ("refuses", "applied"),
    [
        ((), (*BEFORE_OTHERS, *OTHERS)),
        (("Service/s", "Job/fetch"), (*BEFORE_OTHERS, *OTHERS)),
        (("NetworkPolicy/n",), ("NetworkPolicy/n", "ServiceAccount/a", *OTHERS)),
        (("ServiceAccount/a",), ("NetworkPolicy/n", "ServiceAccount/a", *OTHERS)),
        (("Deployment/new",), (*BEFORE_OTHERS[:3], *OTHERS)),
        (("Deployment/old",), (*BEFORE_OTHERS, *OTHERS)),
    ],
)
def test_children_when_some_are_refused_then_next_workloads_wait(
    refuses: tuple[str, ...], applied: tuple[str, ...]
) -> None:
    """Prerequisites, workloads, then the rest, each in the order of the desired set."""
    refused: list[Child] = []
    tried = []
    for child in to_apply(children(*WANTED), refused):
        tried.append(name_of(child.key))
        if tried[-1] in refuses:
            refused.append(child)
    assert tuple(tried) == applied


@pytest.mark.parametrize(
    ("refused", "deleted"),
    [
        ((), ("Deployment/older", "Job/former", "NetworkPolicy/m")),
        (("Service/s",), ("Deployment/older", "Job/former", "NetworkPolicy/m")),
        (("Deployment/new",), ("Job/former", "NetworkPolicy/m")),
        (("NetworkPolicy/n",), ("Job/former", "NetworkPolicy/m")),
    ],
)
def test_surplus_when_something_is_refused_then_workloads_stay(
    refused: tuple[str, ...], deleted: tuple[str, ...]
) -> None:
    observed = [child.key for child in children("NetworkPolicy/m", "Deployment/older", "Job/former", *WANTED)]
    keys = to_delete(children(*WANTED), observed, children(*refused))
    assert tuple(map(name_of, keys)) == deleted


def test_surplus_when_refused_workload_unwanted_then_they_stay() -> None:
    """The second decision of a pass, made after the refusal, may want another set than the first."""
    refused = children("Deployment/new")
    assert to_delete((), [refused[0].key], refused) == []


def test_surplus_when_nothing_is_wanted_then_everything_goes() -> None:
    observed = [child.key for child in children(*WANTED)]
    assert to_delete((), observed, ()) == sorted(observed)


def children(*names: str) -> list[Child]:
    return [made(*name.split("/")) for name in names]


def made(kind: str, name: str) -> Child:
    return Child(ChildKey("v1", kind, "default", name), {}, PHASES.get(kind, ApplyPhase.OTHER))


def name_of(key: ChildKey) -> str:
    return f"{key.kind}/{key.name}"
