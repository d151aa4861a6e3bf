"""A changed spec is rolled out without a lost request; applying the old spec is the rollback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from behaviours.behaviours_traffic import Traffic
from behaviours.behaviours_world import BROKEN_BYTES, World, model, revisions, until, wait

OTHER = {"llm": {"maxModelLen": 256, "maxConcurrentRequests": 4}}
CANARY_PERCENT = 25
CANARY = {"type": "Canary", "canary": {"percent": CANARY_PERCENT}}


class RolloutBehaviour:
    """Needs the fixtures `served`: a world with the model `smol`, one replica, ready; and `smollm2_path`."""

    def test_rollout_when_spec_changes_under_traffic_then_no_failure(self, served: World) -> None:
        wait(served, "smol", "Running")
        before = revisions(served, "smol")
        with Traffic(served).running() as traffic:
            served.apply(model(served.model_uri, runtime=OTHER))
            _taken_over(served, lambda now: now != before)
            served.apply(model(served.model_uri))
            _taken_over(served, lambda now: now == before)
        traffic.assert_nothing_lost()
        wait(served, "smol", "Running")

    def test_replicas_when_scaled_under_traffic_then_no_failure(self, served: World) -> None:
        wait(served, "smol", "Running")
        with Traffic(served).running() as traffic:
            served.scale("smol", 2)
            until(
                lambda: served.get("smol")["status"]["readyReplicas"] == 2,
                lambda: f"two replicas are ready: {served.get('smol')['status']}",
                served.patience,
            )
            assert len(served.lives("smol")) == 2
            served.scale("smol", 1)
            until(lambda: len(served.lives("smol")) == 1, "one replica has gone", served.patience)
        traffic.assert_nothing_lost()
        wait(served, "smol", "Running")

    def test_rollout_when_it_recreates_then_requests_held_meanwhile(self, served: World) -> None:
        wait(served, "smol", "Running")
        before = revisions(served, "smol")
        with Traffic(served).running() as traffic:
            served.apply(model(served.model_uri, runtime=OTHER, rollout={"type": "Recreate"}))
            _taken_over(served, lambda now: now != before)
            served.apply(model(served.model_uri))
            _taken_over(served, lambda now: now == before)
        traffic.assert_nothing_lost()

    def test_canary_when_applied_then_keeps_its_share_until_promoted(self, served: World) -> None:
        wait(served, "smol", "Running")
        (before,) = revisions(served, "smol")
        with Traffic(served).running() as traffic:
            served.apply(model(served.model_uri, runtime=OTHER, rollout=CANARY))
            wait(served, "smol", "Canary", "Progressing")
            until(
                lambda: sorted(weights(served, "smol").values()) == [CANARY_PERCENT, 100 - CANARY_PERCENT],
                lambda: f"the canary has its share: {weights(served, 'smol')}",
                served.patience,
            )
            assert weights(served, "smol")[before] == 100 - CANARY_PERCENT
            served.apply(model(served.model_uri, runtime=OTHER))
            _taken_over(served, lambda now: now != [before])
            served.apply(model(served.model_uri))
            _taken_over(served, lambda now: now == [before])
        traffic.assert_nothing_lost()

    def test_canary_when_the_stable_spec_is_applied_then_rolled_back(self, served: World) -> None:
        wait(served, "smol", "Running")
        before = revisions(served, "smol")
        with Traffic(served).running() as traffic:
            served.apply(model(served.model_uri, runtime=OTHER, rollout=CANARY))
            wait(served, "smol", "Canary", "Progressing")
            served.apply(model(served.model_uri))
            _taken_over(served, lambda now: now == before)
        traffic.assert_nothing_lost()

    def test_canary_when_it_cannot_start_then_the_stable_serves_all(self, served: World, smollm2_path: Path) -> None:
        """The condition says why."""
        wait(served, "smol", "Running")
        (before,) = revisions(served, "smol")
        with smollm2_path.open("rb") as whole:
            served.put("canary.gguf", whole.read(BROKEN_BYTES))
        with Traffic(served).running() as traffic:
            served.apply(model(served.uri("canary.gguf"), rollout=CANARY))
            assert "it was cut" in wait(served, "smol", "CrashLoop", "Progressing")["message"]
            assert weights(served, "smol")[before] == 100
            served.apply(model(served.model_uri))
            _taken_over(served, lambda now: now == [before])
        traffic.assert_nothing_lost()


def weights(world: World, name: str) -> dict[str, int]:
    """Return the share of requests that each revision of a model gets, percent."""
    listed = world.get(name).get("status", {}).get("revisions", [])
    return {revision["name"]: revision["weightPercent"] for revision in listed}


def _taken_over(world: World, right: Callable[[list[str]], bool]) -> None:
    """Wait until there is one revision, the right one."""
    until(
        lambda: len(now := revisions(world, "smol")) == 1 and right(now),
        lambda: f"the revision has taken over; there are {revisions(world, 'smol')}",
        world.patience,
    )
