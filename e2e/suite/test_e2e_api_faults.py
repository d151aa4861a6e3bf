"""The operator against an API server that fails it, in one suite behind a fault proxy.

Each fault meets the same changes. When it is over, everything must become as the rule says in a bounded time, and then
be quiet: the rule is asked here too, with the resources as they are, and knows nothing of what happened to them.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from behaviours.behaviours_world import until
from cluster_world import Site
from fault_proxy import Fault
from fault_stage import AFTER, Stage, fault_stage
from release import NAME, NAMESPACE

from headrace.api import vocabulary as v
from headrace.control.loop import LAST_BACKOFF_SECONDS
from headrace_operator.kinds import watched_kinds

pytestmark = [pytest.mark.alone, pytest.mark.timeout(600)]

LOST_LEASE = 70
"""The exit code of an operator that may not be the leader any more."""
HEAL_SECONDS = LAST_BACKOFF_SECONDS + 30
"""A look that failed often enough is repeated only after that."""
SILENCE_SECONDS = 70.0
"""After which the operator takes a watch for dead."""
AWAY_SECONDS = 60.0
KILLS = (
    *(("write", 1), ("write", 2), ("write", 3), ("read", 4), ("write", 5), ("write", 8)),
    *(("read", 24), ("write", 13), ("write", 21), ("write", 34)),
)
"""At which request of a life it is killed, the Lease's with them: there are more than 30 reads before the first write,
then the Lease's, the namespace's, and in turns those of several resources."""


@contextlib.contextmanager
def away(stage: Stage) -> Iterator[None]:
    """Nobody answers for a minute. The Lease cannot be renewed, so the operator ends, and its next life waits."""
    with stage.proxy.fault(Fault.AWAY):
        began = time.monotonic()
        yield
        until(lambda: time.monotonic() - began > AWAY_SECONDS, "the minute is over", AWAY_SECONDS + 1)
        assert stage.proxy.counts["forwarded"] == 0
        assert stage.wrong(AFTER)
    assert stage.proxy.counts["reset"] >= len(watched_kinds()), "every watch was open"
    assert stage.operator.exits == [LOST_LEASE]
    assert "Cannot connect to host 127.0.0.1" in stage.operator.said()


@contextlib.contextmanager
def silent(stage: Stage) -> Iterator[None]:
    """The watches die without a sound; everything else works."""
    with stage.proxy.fault(Fault.SILENT):
        yield
        until(lambda: stage.proxy.counts["swallowed"] >= 10, lambda: f"events are swallowed: {stage.proxy.counts}")
        assert stage.wrong(AFTER)
    assert stage.proxy.counts["mute"] >= len(watched_kinds()) // 2
    assert stage.operator.exits == []


@contextlib.contextmanager
def gone(stage: Stage) -> Iterator[None]:
    """Every watch is told 410, again and again: nothing is learned but by lists."""
    with stage.proxy.fault(Fault.GONE):
        yield
        told = 5 * len(watched_kinds())
        until(lambda: stage.proxy.counts["gone"] >= told, lambda: f"watches are told 410: {stage.proxy.counts}")
        until(lambda: "was deleted, and no watch reported it" in stage.operator.said(), "an audit finds what vanished")
    assert stage.operator.exits == []


@contextlib.contextmanager
def conflicts(stage: Stage) -> Iterator[None]:
    """Somebody else writes what is ours all the time, and every third write of ours is refused."""
    over, writes = threading.Event(), 0

    def write() -> None:
        nonlocal writes
        deployment = stage.deployment("kept")
        while not over.wait(0.1):
            writes += 1
            other = f"other-{writes}"
            labels = {v.COMPONENT_LABEL: other, v.MANAGED_BY: ("headrace", "somebody")[writes % 2]}
            stage.patch("services", "kept", {"metadata": {"labels": labels}, "spec": {"selector": {"app": other}}})
            stage.patch("deployments", deployment, {"metadata": {"annotations": {v.REVISION_INFO_ANNOTATION: other}}})
            stage.patch("networkpolicies", "tampered-runtime", {"spec": {"egress": []}})
            status = {"replicas": writes, "publicName": other, "observedGeneration": 0, "conditions": []}
            for name in ("kept", "changed"):
                stage.patch("modeldeployments", name, {"status": status}, "/status")

    somebody = threading.Thread(target=write, name="somebody")
    with stage.proxy.fault(Fault.CONFLICT):
        somebody.start()
        try:
            yield
            until(
                lambda: stage.proxy.counts["conflict"] >= 25 and writes >= 50,
                lambda: f"many write: {writes}, {stage.proxy.counts}",
            )
        finally:
            over.set()
            somebody.join()
    assert stage.operator.exits == []


@contextlib.contextmanager
def cut(stage: Stage) -> Iterator[None]:
    """Answers end in their middle: whether a write happened is not known."""
    with stage.proxy.fault(Fault.CUT):
        yield
        enough = {"cut write": 10, "cut event": 10, "cut lease answer": 4}  # there is hardly another read
        until(lambda: stage.proxy.counts >= Counter(enough), lambda: f"answers are cut: {stage.proxy.counts}")
    assert stage.operator.exits == []


@contextlib.contextmanager
def restart(stage: Stage) -> Iterator[None]:
    """`kill -9` at one request after another: in turns after it was sent on, and before, so that it never happens."""
    operator, killed, seen = stage.operator, 0, Counter[str]()

    def on_request(what: str) -> bool:
        nonlocal killed
        if len(operator.exits) < killed:
            return False  # of a life that was just killed
        seen[what] += 1
        if killed == len(KILLS) or (what, seen[what]) != KILLS[killed]:
            return True
        operator.kill()
        killed += 1
        seen.clear()
        return killed % 2 == 1

    with stage.proxy.fault(Fault.NOTHING):
        stage.proxy.on_request = on_request
        try:
            yield
            until(lambda: killed == len(KILLS), lambda: f"it is killed again and again: {killed} times", 240)
        finally:
            stage.proxy.on_request = None
    until(lambda: len(operator.exits) == killed, "the last one is dead")
    assert set(operator.exits) == {-signal.SIGKILL}


@pytest.fixture(scope="module")
def no_operator(site: Site) -> Iterator[None]:
    """Stop the installed operator, and let it come back."""
    kube, deployment = site.kube, f"{NAME}-operator"
    replicas = kube.get("deployments", NAMESPACE, deployment)["spec"]["replicas"]
    selector = f"app.kubernetes.io/instance={NAME},app.kubernetes.io/component=operator"
    try:
        kube.kubectl("scale", f"deployment/{deployment}", "--replicas=0", "-n", NAMESPACE)
        until(lambda: not kube.items("pods", NAMESPACE, selector), "the operator is gone")
        yield
    finally:
        kube.kubectl("scale", f"deployment/{deployment}", f"--replicas={replicas}", "-n", NAMESPACE)
        site.release.wait()


@pytest.fixture(scope="module")
def stage(site: Site, no_operator: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with fault_stage(site, tmp_path_factory.mktemp("faults")) as stage:
        yield stage


@pytest.mark.parametrize(
    ("fault", "heal_seconds"),
    [
        (away, HEAL_SECONDS),
        (silent, SILENCE_SECONDS + HEAL_SECONDS),
        (gone, HEAL_SECONDS),
        (conflicts, HEAL_SECONDS),
        (cut, HEAL_SECONDS),
        (restart, HEAL_SECONDS),
    ],
)
def test_operator_when_api_server_fails_then_state_converges(
    stage: Stage, fault: Callable[[Stage], contextlib.AbstractContextManager[None]], heal_seconds: float
) -> None:
    """Every resource reaches the state that the rule decides, and then nothing is written any more."""
    stage.settle()
    with fault(stage):
        stage.change()
    stage.wait_whole(AFTER, heal_seconds)
