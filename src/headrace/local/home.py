"""Where a local instance keeps what is its own, and how one learns whether it runs.

    $HEADRACE_HOME (default ~/.local/share/headrace)
      models/                 shared by every instance
      instances/<name>/       one instance's, readable by its user alone
        lock                  held by the supervisor for as long as it lives; holds its process id
        headrace.sock         the API that the command line speaks to
        instance.json         what a running instance says of itself; the last thing that a start writes
        life.json             who the supervisor is, so that the next one can tell leftovers from strangers
        state.sqlite  nats/  gateway/  logs/

The lock is the truth about "running": the kernel frees it however the supervisor ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.errors import CannotStart, HeadraceError, NotRunning, SystemFault, explained, is_full
from headrace.files import naming, write_private

HOME_VARIABLE = "HEADRACE_HOME"
START_BYTES = 4 * 1024 * 1024
"""What an instance writes before it is up (its database, NATS's store, logs), and some statuses and events."""
LOCK_SECONDS = 0.5
"""How long a start waits for the lock: somebody who asks whether an instance runs holds it for microseconds."""
STOP_SECONDS = 90.0
"""A stop is bounded well below this by the instance itself: see `headrace.local.instance`."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PRIVATE_DIRECTORY = 0o700


class InvalidName(HeadraceError):
    """An instance's name is part of a path: lower-case letters, digits and dashes."""

    reason = "InvalidName"
    exit_code = 2


class InvalidHome(HeadraceError):
    """HEADRACE_HOME is no directory that could be shown, or written into the files of programs that read UTF-8."""

    reason = "InvalidHome"
    exit_code = 2


def home_fault(error: OSError, *, what: str = "") -> SystemFault:
    """Return what an error in the home means: besides mending it, another home is a way out."""
    return explained(error, what=what, or_else=f"set {HOME_VARIABLE} to another directory")


@dataclass(frozen=True, slots=True)
class InstanceHome:
    """The paths of one instance. Making one touches no disk."""

    root: Path
    name: str

    @classmethod
    def of(cls, name: str, root: Path | None = None) -> InstanceHome:
        """Return the home of the instance of that name, under HEADRACE_HOME unless a root is given."""
        if not _NAME.fullmatch(name):
            raise InvalidName(
                f"{name!r} cannot name an instance", hint="Use up to 40 lower-case letters, digits and dashes"
            )
        return cls(_root() if root is None else root.absolute(), name)

    @property
    def option(self) -> str:
        """The option with which a command means this instance; empty for the one that is meant without."""
        return "" if self.name == "default" else f" --instance {self.name}"

    @property
    def directory(self) -> Path:
        """The instance's own directory."""
        return self.root / "instances" / self.name

    @property
    def models(self) -> Path:
        """The model directory, shared by every instance of this home."""
        return self.root / "models"

    @property
    def socket(self) -> Path:
        """The Unix socket of the API."""
        return self.directory / "headrace.sock"

    @property
    def record(self) -> Path:
        """What a running instance says of itself: `Record`."""
        return self.directory / "instance.json"

    @property
    def life(self) -> Path:
        """Who the supervisor of the newest life is or was: see `headrace.local.leftovers`."""
        return self.directory / "life.json"

    @property
    def lock(self) -> Path:
        """The file that the supervisor keeps locked."""
        return self.directory / "lock"

    @property
    def state(self) -> Path:
        """The objects of the local cluster."""
        return self.directory / "state.sqlite"

    @property
    def nats(self) -> Path:
        """The NATS server's configuration and store."""
        return self.directory / "nats"

    @property
    def gateway(self) -> Path:
        """The gateway's copy of what it knows."""
        return self.directory / "gateway"

    @property
    def logs(self) -> Path:
        """What the platform's own processes print."""
        return self.directory / "logs"

    def is_running(self) -> bool:
        """Whether a supervisor holds the lock."""
        try:
            with self.lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def make(self) -> None:
        """Make the directories, for this user alone, on a disk with room for a start.

        Raises SystemFault where that is not possible, and CannotStart where they are another user's.
        """
        try:
            for directory in (self.root, self.models, self.directory.parent):
                directory.mkdir(mode=_PRIVATE_DIRECTORY, parents=True, exist_ok=True)
            for directory in (self.directory, self.nats, self.gateway, self.logs):
                directory.mkdir(mode=_PRIVATE_DIRECTORY, exist_ok=True)
                if directory.stat().st_uid != os.geteuid():
                    raise CannotStart(f"{directory} belongs to another user", hint=f"Set {HOME_VARIABLE} to your own")
                directory.chmod(_PRIVATE_DIRECTORY)
        except OSError as error:
            raise home_fault(error, what=f"cannot make {error.filename}") from error
        self._check_room()

    def _check_room(self) -> None:
        """Raise NoSpace where a start would fill the disk: its parts would each fail in a way of their own."""
        try:
            with naming(self.directory), tempfile.TemporaryFile(dir=self.directory) as file:
                os.posix_fallocate(file.fileno(), 0, START_BYTES)
        except OSError as error:
            what = f"{self.directory} has no room for the {START_BYTES >> 20} MiB that a start needs"
            raise home_fault(error, what=what if is_full(error) else "") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the instance's lock. Raises CannotStart when another supervisor does."""
        with self.lock.open("a+b") as file:
            self._take(file.fileno())
            with naming(self.lock):
                file.truncate(0)
                file.write(f"{os.getpid()}\n".encode())
                file.flush()
            yield

    def _take(self, fd: int) -> None:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() < deadline:
                    time.sleep(0.01)
                    continue
                raise self._already_running() from error
            else:
                return

    def check_stopped(self) -> None:
        """Raise CannotStart while a supervisor holds the lock, before anything of its instance is touched."""
        if self.is_running():
            raise self._already_running()

    def _already_running(self) -> CannotStart:
        option = self.option
        return CannotStart(
            f"the instance {self.name!r} is already running{self._endpoint()}",
            hint=f"Use it (`headrace get mdep{option}`), stop it (`headrace down{option}`), "
            "or start another one with --instance NAME",
        )

    def _endpoint(self) -> str:
        with contextlib.suppress(NotRunning):
            return f" at {Record.read(self).endpoint}"
        return ""


def _root() -> Path:
    """Return the directory of every instance. Raises InvalidHome, and OSError for a working directory that is gone."""
    named = os.environ.get(HOME_VARIABLE)
    try:
        root = Path(named).expanduser() if named else Path.home() / ".local/share/headrace"
        with naming(root):
            root = root.absolute()
    except RuntimeError as error:
        raise InvalidHome("this user has no home directory", hint=f"Set {HOME_VARIABLE} to a directory") from error
    try:
        str(root).encode()
        readable = not _CONTROL.search(str(root))
    except UnicodeEncodeError:
        readable = False
    if not readable:
        raise InvalidHome(
            f"{HOME_VARIABLE} is not printable text in UTF-8: {str(root)!a}", hint="Choose a directory that is"
        )
    return root


@dataclass(frozen=True, slots=True)
class Record:
    """What a running instance says of itself; there only while everything of it is up."""

    instance: str
    pid: int
    version: str
    endpoint: str
    started: str
    home: str

    def as_json(self) -> dict[str, Any]:
        """Return it as the API and the file have it."""
        return {name: getattr(self, name) for name in self.__slots__}

    def write(self, home: InstanceHome) -> None:
        """Write it for `headrace up --detach` and whoever looks for the endpoint."""
        write_private(home.record, json.dumps(self.as_json(), indent=2) + "\n")

    @classmethod
    def read(cls, home: InstanceHome) -> Record:
        """Return what the instance wrote; raises NotRunning when it has not come up."""
        try:
            return cls(**json.loads(home.record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise NotRunning(f"the instance {home.name!r} is not up", hint="Start it with `headrace up`") from error


def wait_stopped(home: InstanceHome, timeout_seconds: float = STOP_SECONDS) -> None:
    """Return when the instance's supervisor is gone. Raises HeadraceError when it is not after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    while home.is_running():
        left = deadline - time.monotonic()
        if left <= 0:
            raise HeadraceError(
                f"the instance {home.name!r} did not stop within {timeout_seconds:.0f} s",
                hint=f"Look into {home.logs}; kill -9 of its process leaves nothing behind",
            )
        _wait_for_exit(home.lock, left)


def _wait_for_exit(lock: Path, seconds: float) -> None:
    """Wait for the death of the process that the lock names, which the kernel tells by its pidfd."""
    try:
        fd = os.pidfd_open(int(lock.read_text(encoding="ascii")))
    except (OSError, ValueError):
        time.sleep(0.01)  # dying, or not yet written: the lock tells the next time
        return
    try:
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        waiting.poll(seconds * 1000)
    finally:
        os.close(fd)
