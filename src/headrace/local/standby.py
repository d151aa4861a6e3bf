"""Warm processes: programs that have been started and have loaded their libraries, before they are needed.

A pod whose variable `HEADRACE_KEEP` is `Process` becomes one of them instead of a new process. There is one for each
program (command, and variables of the user, which libraries may read when they are loaded) that a Deployment has, of
any model: which one it serves is decided when a pod starts. A warm process is `COMMAND standby FD`, with the descriptor
of its end of a socket pair; `headrace.standby` is its side.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from headrace.api.vocabulary import KEEP_PROCESS
from headrace.environment import KEEP, SET_IN_PODS
from headrace.local.index import Change, ObjectIndex
from headrace.local.template import Launch, machine_variables
from headrace.process import Process, spawn
from headrace.reconcile.world import Manifest, ObjectKey
from headrace.standby import COMMAND

log = logging.getLogger(__name__)

LOG = "standby.log"
REFILL_SECONDS = 3.0
"""After a warm process was taken, until the next one is started: loading libraries would slow down the first answer."""


@dataclass(frozen=True, slots=True)
class Program:
    """What a warm process is, before it is known which model it serves."""

    command: tuple[str, ...]
    variables: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, pod_spec: Manifest) -> Program | None:
        """Return the program of a pod; None if no warm process is to become it."""
        container = pod_spec["containers"][0]
        variables = {
            each["name"]: each.get("value", "") for each in container.get("env", []) if "valueFrom" not in each
        }
        if variables.get(KEEP) != KEEP_PROCESS:
            return None
        own = tuple(sorted(item for item in variables.items() if item[0] not in SET_IN_PODS))
        return cls(tuple(container["command"]), own)


@dataclass(frozen=True, slots=True)
class WarmProcess:
    """A process that waits for its arguments."""

    process: Process
    channel: socket.socket

    def become(self, arguments: list[str], variables: dict[str, str], output: Path) -> Process:
        """Let it run with these arguments and variables, and append its output to a file. Raises OSError."""
        message = os.memfd_create("launch")
        try:
            with self.channel, output.open("ab") as file, os.fdopen(os.dup(message), "wb") as content:
                content.write(json.dumps({"arguments": arguments, "variables": variables}).encode())
                content.flush()
                socket.send_fds(self.channel, [b"1"], [message, file.fileno()])
        finally:
            os.close(message)
        return self.process


class StandbyPool:
    """Keeps a warm process for each program that a Deployment has, and starts the processes of all pods."""

    def __init__(self, index: ObjectIndex, directory: Path) -> None:
        self._directory = directory
        self._programs: dict[ObjectKey, Program] = {}
        """By Deployment."""
        self._warm: dict[Program, WarmProcess] = {}
        self._refills: dict[Program, asyncio.TimerHandle] = {}
        index.listen(self._on_change)

    def start(self, spec: Manifest, launch: Launch, output: Path) -> Process:
        """Start the process of a pod: a warm one, or a new one. Raises OSError."""
        program = Program.of(spec)
        warm = self._take(program) if program is not None else None
        if warm is not None:
            arguments = launch.command[len(spec["containers"][0]["command"]) :]
            try:
                return warm.become(arguments, launch.variables, output)
            except OSError as error:  # it has ended
                log.warning("a new process is started: the warm one of %s: %s", launch.command[0], error)
        return spawn(launch.command, launch.variables, output)

    def stop(self) -> None:
        """End all warm processes, and start no more."""
        self._programs.clear()
        for refill in self._refills.values():
            refill.cancel()
        self._update()

    def _take(self, program: Program) -> WarmProcess | None:
        if program not in self._refills:
            loop = asyncio.get_running_loop()
            self._refills[program] = loop.call_later(REFILL_SECONDS, self._refill, program)
        warm = self._warm.pop(program, None)
        if warm is None or warm.process.code is None:
            return warm
        warm.channel.close()
        return None

    def _refill(self, program: Program) -> None:
        del self._refills[program]
        self._update()

    def _on_change(self, change: Change) -> None:
        if change.object["kind"] != "Deployment":
            return
        key = ObjectKey.of(change.object)
        program = None if change.type == "DELETED" else Program.of(change.object["spec"]["template"]["spec"])
        if program is None:
            self._programs.pop(key, None)
        else:
            self._programs[key] = program
        self._update()

    def _update(self) -> None:
        """Have one process for each program."""
        wanted = set(self._programs.values())
        for program in self._warm.keys() - wanted:
            self._warm.pop(program).channel.close()  # at which it exits
        for program in wanted - self._warm.keys() - self._refills.keys():
            try:
                self._warm[program] = self._spawn(program)
            except OSError as error:
                log.warning("no warm process of %s: %s", program.command[0], error)

    def _spawn(self, program: Program) -> WarmProcess:
        ours, theirs = socket.socketpair()
        with theirs:
            variables = machine_variables() | dict(program.variables)
            command = [*program.command, COMMAND, str(theirs.fileno())]
            try:
                process = spawn(command, variables, self._directory / LOG, pass_fds=[theirs.fileno()])
            except OSError:
                ours.close()
                raise
        return WarmProcess(process, ours)
