"""What holds of starts from zero, whenever requests come and go, pods fail, and the loop is restarted."""

from __future__ import annotations

from datetime import datetime

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kinds.reconcile_world import serving_world

from headrace.api import vocabulary as v

DEADLINE_SECONDS = 60
SCALING = {"maxReplicas": 3, "idleTimeoutSeconds": 2}
FAILED_STARTS = {v.CRASH_LOOP, v.OOM_KILLED, v.IMAGE_PULL_FAILED, v.STARTUP_DEADLINE_EXCEEDED}
picks = st.integers(0, 7)


class Starts(RuleBasedStateMachine):
    """A model at zero that is woken again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.world = serving_world(scaling=SCALING, rollout={"startupDeadlineSeconds": DEADLINE_SECONDS})
        self.failed = False
        """Whether the last start of this generation failed."""

    @initialize()
    def first_request(self) -> None:
        self.requests_change(1)

    @rule(queued=st.sampled_from([0, 0, 1, 20]))
    def requests_change(self, queued: int) -> None:
        self.world.ask(queued=queued)
        self.look()

    @rule(seconds=st.floats(0.1, 20))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds
        self.look()

    @rule()
    def loop_restarts(self) -> None:
        self.world.restart_loop()
        self.look()

    @precondition(lambda self: self.world.runtimes())
    @rule(pick=picks, fate=st.sampled_from(["load", "load", "serve", "crash", "oom", "no image"]))
    def pod_meets_its_fate(self, pick: int, fate: str) -> None:
        world = self.world
        pod = world.runtimes()[pick % len(world.runtimes())]
        match fate:
            case "load":
                world.load(pod, percent=pick * 10)
            case "serve":
                world.serve(pod)
            case "crash":
                world.crash(pod, "cut")
            case "oom":
                world.crash(pod, "", code=137, reason="OOMKilled")
            case _:
                world.container(pod, {"waiting": {"reason": "ErrImagePull"}})
        self.look()

    @rule(env=st.sampled_from(["a", "b"]))
    def spec_changes(self, env: str) -> None:
        self.world.apply(template={"env": [{"name": "A", "value": env}]})
        self.failed = False
        self.world.look()
        self._note()

    def look(self) -> None:
        """An activating replica is never removed for idleness."""
        activating = self._activating()
        outcome = self.world.look()
        if activating and any(event.reason == v.SCALED and "idle" in event.message for event in outcome.events):
            raise AssertionError(activating)
        self._note()

    @invariant()
    def failed_start_is_told(self) -> None:
        """A resource whose last start failed is never Ready=True Idle at that generation."""
        if self.failed:
            assert self.world.says(v.READY) != ("True", v.IDLE)

    def _activating(self) -> list[str]:
        """Pods that were never admitted and have nothing wrong with them, unless the revision is given up."""
        waiting = [name for name in self.world.runtimes() if not self.world.pods[name]["status"]["conditions"]]
        given_up = self.world.says(v.WORKLOADS_READY)[1] == v.STARTUP_DEADLINE_EXCEEDED
        if given_up or any(self._age(name) > DEADLINE_SECONDS for name in waiting):
            return []  # one that is late takes the others with it
        return [name for name in waiting if self._is_well(name)]

    def _age(self, name: str) -> float:
        created = self.world.pods[name]["metadata"]["creationTimestamp"]
        return self.world.wall - datetime.fromisoformat(created).timestamp()

    def _is_well(self, name: str) -> bool:
        containers = self.world.pods[name]["status"]["containerStatuses"]
        return all(each["restartCount"] == 0 and "running" in each["state"] for each in containers)

    def _note(self) -> None:
        if self.world.says(v.WORKLOADS_READY)[1] in FAILED_STARTS:
            self.failed = True
        if self.world.manifest["status"]["revisions"][0]["readyReplicas"]:
            self.failed = False


TestStarts = Starts.TestCase
TestStarts.settings = settings(
    max_examples=80, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
