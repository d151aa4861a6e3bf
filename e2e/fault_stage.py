"""The environment of the fault tests: an operator behind the fault proxy, and resources with a known desired state.

The operator of this checkout is a process on this machine, restarted whenever it exits, as by a kubelet; it reaches the
cluster's API server only through the proxy. Broker and gateway are processes too, so that models at zero are Ready, and
only changes cause reconcile passes. No model ever starts; one fetches a file.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import openai
from behaviours.behaviours_world import SCALING, model
from cluster import ROOT
from cluster_world import ClusterWorld, Site, tenant
from control.control_world import Broker
from fault_proxy import FaultProxy
from kube import Kube, Manifest, path_of
from release import Release

from headrace import environment
from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.reconcile import reconcile
from headrace.reconcile.images import platform_images
from headrace.reconcile.world import Observed, Signals
from headrace_operator.kinds import watched_children
from headrace_operator.settings import POD_NAME, POD_NAMESPACE, Settings

TENANT = "e2e-faults"
LEASE = "faults"
BIN = Path(sys.executable).parent
FILES = ("one.gguf", "two.gguf")
BEFORE = ("changed", "kept", "deleted", "tampered", "bereft", "remade")
"""The resources before a fault."""
AFTER = ("changed", "kept", "tampered", "bereft", "remade", "new")
"""The resources after a fault."""
QUIET_SECONDS = 5.0
SETTLE_SECONDS = 60.0
LOOK_SECONDS = 0.5
RESTART_SECONDS = 0.5
MOST_SAID = 4000


@dataclass
class Operator:
    """The operator as a process that is restarted whenever it exits, as a kubelet does."""

    kube: Kube
    command: list[str]
    variables: dict[str, str]
    log: Path
    exits: list[int] = field(default_factory=list)
    """Exit codes of all processes; negative: the signal."""
    logged: int = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._stopping = threading.Event()
        self._started = threading.Event()
        keeper = threading.Thread(target=self._keep, name="kubelet")
        keeper.start()
        assert self._started.wait(RESTART_SECONDS * 10)
        try:
            yield
        finally:
            self._stopping.set()
            while keeper.is_alive():  # it may just have started another one
                self._process.terminate()
                keeper.join(1.0)

    def kill(self) -> None:
        self._process.kill()

    def forget(self) -> None:
        """Reset the exit codes and the start of the log."""
        self.exits.clear()
        self.logged = self.log.stat().st_size

    def said(self) -> str:
        return self.log.read_bytes()[self.logged :].decode()

    def _keep(self) -> None:
        while not self._stopping.is_set():
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(self.command, env=self.variables, stderr=log)
            self._started.set()
            code = self._process.wait()
            self.exits.append(code)
            if code == -signal.SIGKILL:  # its holder has exited, so the next one does not have to wait ten seconds
                freed = {"spec": {"holderIdentity": ""}}
                self.kube.request("PATCH", path_of("leases", TENANT, LEASE), freed)
            self._stopping.wait(RESTART_SECONDS)


@dataclass
class Stage:
    """The environment of the tests: cluster, operator, proxy and resources."""

    world: ClusterWorld
    proxy: FaultProxy
    operator: Operator
    rules: Settings
    file: int = 0

    @property
    def kube(self) -> Kube:
        return self.world.site.kube

    def settle(self) -> None:
        """Create exactly the resources before a fault."""
        self.kube.delete("modeldeployments", TENANT, "new")
        for name in BEFORE:
            self.world.apply(self.manifest(name))
        self.wait_whole(BEFORE, SETTLE_SECONDS)
        self.operator.forget()

    def change(self) -> None:
        """Change some resources of each type, without the proxy."""
        self.file = 1 - self.file
        self.world.apply(self.manifest("changed"))
        self.world.apply(self.manifest("new"))
        self.kube.delete("modeldeployments", TENANT, "deleted")
        mine = {"metadata": {"labels": {v.COMPONENT_LABEL: "mine"}}, "spec": {"selector": {"app": "mine"}}}
        self.patch("services", "tampered", mine)
        self.kube.delete("services", TENANT, "bereft")
        self.kube.delete("networkpolicies", TENANT, "bereft-runtime")
        self.kube.delete("poddisruptionbudgets", TENANT, "bereft-runtime")
        self.kube.delete("deployments", TENANT, self.deployment("remade"))
        self.kube.delete("modeldeployments", TENANT, "remade")
        self.world.apply(self.manifest("remade"))

    def manifest(self, name: str) -> Manifest:
        if name == "changed":  # another file is another revision, and another Job
            return model(self.world.uri(FILES[self.file]), name, scaling=SCALING)
        engine = {"image": self.world.site.release.images["runtime"], "command": ["headrace-llm"]}
        scaling = (
            {**SCALING, "maxReplicas": 2} if name == "bereft" else SCALING
        )  # two replicas have a disruption budget
        return model("", name, model={}, runtime={"type": "Container", "container": engine}, scaling=scaling)

    def patch(self, kind: str, name: str, patch: Manifest, part: str = "") -> None:
        path = f"{path_of(kind, TENANT, name)}{part}?fieldManager=somebody"
        status, answer = self.kube.request("PATCH", path, patch)
        assert status in (200, 404), answer  # the operator may have deleted it

    def deployment(self, name: str) -> str:
        (found,) = self.kube.items("deployments", TENANT, f"{v.MODEL_LABEL}={name}")
        return str(found["metadata"]["name"])

    def wait_whole(self, names: tuple[str, ...], seconds: float) -> None:
        """Wait until the state is the desired one and writes have stopped."""
        began = time.monotonic()
        while self.proxy.quiet_seconds < QUIET_SECONDS or self.wrong(names):
            if time.monotonic() - began > seconds + QUIET_SECONDS:
                said = "\n".join(self.wrong(names)) or f"it is not quiet; the last writes:\n{self.proxy.last_writes}"
                raise AssertionError(f"not within {seconds} s: {said}\n{self.operator.said()[-MOST_SAID:]}")
            time.sleep(LOOK_SECONDS)
        print(f"whole and quiet after {time.monotonic() - began:.1f} s; {dict(self.proxy.counts)}")

    def wrong(self, names: tuple[str, ...]) -> list[str]:
        """Return the differences from the desired state."""
        resources = {each["metadata"]["name"]: each for each in self.kube.items("modeldeployments", TENANT)}
        wrong = self._wrong_routes(names)
        if resources.keys() != set(names):
            return [*wrong, f"there are the resources {sorted(resources)}"]
        wanted: dict[tuple[str, str], Manifest] = {}
        for each in resources.values():
            wrong += _wrong_status(each)
            outcome = reconcile(each, Observed(), Signals(now=0.0, wall=0.0), self.rules.rules(), None)
            wanted |= {(child.key.kind, child.key.name): child.manifest for child in outcome.children}
        there = {
            (watched.kind, each["metadata"]["name"]): {"apiVersion": watched.api_version, "kind": watched.kind, **each}
            for watched in watched_children()
            for each in self.kube.items(watched.plural, TENANT)
            if _is_owned(each)
        }
        wrong += [f"missing: {key}" for key in wanted.keys() - there.keys()]
        surplus = there.keys() - wanted.keys()
        wrong += [f"too many: {key}" for key in surplus if not _is_finished(there[key])]
        for key in wanted.keys() & there.keys():
            wrong += [f"{key}: {what}" for what in _differences(wanted[key], there[key])]
            if len(there[key]["metadata"]["ownerReferences"]) != 1:
                wrong.append(f"{key} has several owners")
        return wrong

    def _wrong_routes(self, names: tuple[str, ...]) -> list[str]:
        try:
            served = {each.id for each in self._client.models.list()}
        except openai.APIError as error:  # it does not know the key yet, or has not started
            return [f"the gateway returned {error!r}"]
        return [] if served == set(names) else [f"the gateway serves {served}"]

    @cached_property
    def _client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.world.base_url, api_key=self.world.api_key, max_retries=0)


def _wrong_status(resource: Manifest) -> list[str]:
    name, generation, status = (
        resource["metadata"]["name"],
        resource["metadata"]["generation"],
        resource.get("status", {}),
    )
    conditions = status.get("conditions", [])
    facts = {
        "it speaks of another generation": status.get("observedGeneration") == generation,
        "it lacks conditions": [each["type"] for each in conditions] == list(v.CONDITIONS),
        "a condition is old": all(each.get("observedGeneration") == generation for each in conditions),
        "it does not rest": conditions[:1] and (conditions[0]["status"], conditions[0]["reason"]) == ("True", v.IDLE),
        "its figures are not its own": (status.get("replicas"), status.get("publicName")) == (0, name),
        "it has not one revision": len(status.get("revisions", [])) == 1,
    }
    return [f"status of {name}: {what}: {status}" for what, holds in facts.items() if not holds]


def _is_finished(child: Manifest) -> bool:
    """Whether a child is a succeeded Job, which Kubernetes deletes after a while."""
    return child["kind"] == "Job" and bool(child.get("status", {}).get("succeeded"))


def _is_owned(child: Manifest) -> bool:
    owners = child["metadata"].get("ownerReferences", [])
    return any(owner["kind"] == "ModelDeployment" for owner in owners)


def _differences(wanted: Any, there: Any, path: str = "") -> list[str]:
    """Return the paths of fields that differ from the desired ones; fields that an API server adds are ignored."""
    if isinstance(wanted, dict) and isinstance(there, dict):
        return [each for key in wanted for each in _differences(wanted[key], there.get(key), f"{path}.{key}")]
    if isinstance(wanted, list) and isinstance(there, list) and len(wanted) == len(there):
        pairs = enumerate(zip(wanted, there, strict=True))
        return [each for at, (one, other) in pairs for each in _differences(one, other, f"{path}[{at}]")]
    return [] if wanted == there else [f"{path} is {there}, not {wanted}"]


@contextlib.contextmanager
def fault_stage(site: Site, directory: Path) -> Iterator[Stage]:
    """Start the environment, with logs in a directory. The installed operator must not run."""
    with contextlib.ExitStack() as stack:
        broker = Broker()
        stack.callback(broker.stop)
        broker.start()
        url = stack.enter_context(_gateway(broker.url, directory / "gateway.log"))
        proxy = stack.enter_context(FaultProxy(site.kube.kubeconfig))
        world = stack.enter_context(tenant(replace(site, gateway=url), TENANT))
        for file in FILES:
            world.put(file, file.encode())
        proxy.write_kubeconfig(directory / "kubeconfig")
        arguments = _arguments(site.release, url)
        variables = {
            "KUBECONFIG": str(directory / "kubeconfig"),
            POD_NAME: "faults",
            POD_NAMESPACE: TENANT,
            environment.NATS_URL: broker.url,
            environment.NATS_RUNTIME_KEY: "of no importance",
        }
        command = [str(BIN / "headrace-operator"), *arguments]
        operator = Operator(site.kube, command, variables, directory / "operator.log")
        stack.enter_context(operator.running())
        yield Stage(world, proxy, operator, Settings.parse(arguments, variables))


def _arguments(release: Release, gateway: str) -> list[str]:
    return [
        f"--gateway-url={gateway}",
        *(f"--image={image.key}={release.images[image.key]}" for image in platform_images()),
        f"--watch-namespace={TENANT}",
        f"--lease-name={LEASE}",
        f"--models-storage-class={release.storage_class}",
        "--health-port=0",
    ]


@contextlib.contextmanager
def _gateway(nats_url: str, log: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    with log.open("wb") as written:
        command = [str(BIN / "headrace-gateway"), f"--port={port}", f"--nats-url={nats_url}"]
        process = subprocess.Popen(command, stderr=written, cwd=ROOT)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=SETTLE_SECONDS)
