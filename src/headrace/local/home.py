"""The files of a local instance, and the lock that shows whether it runs.

    $HEADRACE_HOME (default ~/.local/share/headrace)
      models/                 shared by every instance
      instances/<name>/       one instance's, readable by its user only
        lock                  held by the supervisor while it runs; contains its process id
        headrace.sock         the API that the command line uses
        instance.json         describes the running instance; written last at a start
        life.json             identifies the supervisor, so that the next one can find its leftover processes
        state.sqlite  nats/  gateway/  logs/

The lock decides whether the instance runs: the kernel releases it however the supervisor ends.
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

from headrace.errors import CannotStart, HeadraceError, NotRunning, SystemFault, is_full, system_fault
from headrace.files import naming, write_private

HOME_VARIABLE = "HEADRACE_HOME"
START_BYTES = 4 * 1024 * 1024
"""Space for what an instance writes until it is ready (database, NATS store, logs), and some statuses and events."""
LOCK_SECONDS = 0.5
"""How long a start waits for the lock: `is_running` holds it for microseconds."""
STOP_SECONDS = 90.0
"""The instance itself stops much sooner: see `headrace.local.instance`."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PRIVATE_DIRECTORY = 0o700


class InvalidName(HeadraceError):
    """The name of an instance is invalid: it is part of a path, so only lower-case letters, digits and dashes."""

    reason = "InvalidName"
    exit_code = 2


class InvalidHome(HeadraceError):
    """HEADRACE_HOME is not printable UTF-8, as the configuration files of other programs require."""

    reason = "InvalidHome"
    exit_code = 2


def home_fault(error: OSError, *, what: str = "") -> SystemFault:
    """Return an explained error for an OSError in the home; its hint mentions that another home can be set."""
    return system_fault(error, what=what, or_else=f"set {HOME_VARIABLE} to another directory")


@dataclass(frozen=True, slots=True)
class InstanceHome:
    """The paths of one instance. Constructing it does not access the disk."""

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
        """The command-line option that selects this instance; empty for the default instance."""
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
        """The file of the `Record` of the running instance."""
        return self.directory / "instance.json"

    @property
    def life(self) -> Path:
        """The file of the newest `Life` (`headrace.local.leftovers`)."""
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
        """The gateway's copy of the routes and keys."""
        return self.directory / "gateway"

    @property
    def node(self) -> Path:
        """The node agent's sockets."""
        return self.directory / "node"

    @property
    def logs(self) -> Path:
        """The output of the platform's processes."""
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
        """Create the directories, readable by this user only, and check that the disk has space for a start.

        Raises SystemFault if that is not possible, and CannotStart if they belong to another user.
        """
        try:
            for directory in (self.root, self.models, self.directory.parent):
                directory.mkdir(mode=_PRIVATE_DIRECTORY, parents=True, exist_ok=True)
            for directory in (self.directory, self.nats, self.gateway, self.node, self.logs):
                directory.mkdir(mode=_PRIVATE_DIRECTORY, exist_ok=True)
                if directory.stat().st_uid != os.geteuid():
                    raise CannotStart(f"{directory} belongs to another user", hint=f"Set {HOME_VARIABLE} to your own")
                directory.chmod(_PRIVATE_DIRECTORY)
        except OSError as error:
            raise home_fault(error, what=f"cannot make {error.filename}") from error
        self._check_room()

    def _check_room(self) -> None:
        """Raise NoSpace if a start would fill the disk, in place of a different error of each component."""
        try:
            with naming(self.directory), tempfile.TemporaryFile(dir=self.directory) as file:
                os.posix_fallocate(file.fileno(), 0, START_BYTES)
        except OSError as error:
            what = f"{self.directory} has no room for the {START_BYTES >> 20} MiB that a start needs"
            raise home_fault(error, what=what if is_full(error) else "") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the instance's lock. Raises CannotStart if another supervisor holds it."""
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
        """Raise CannotStart if a supervisor holds the lock."""
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
    """Return the directory of all instances. Raises InvalidHome, or OSError if the working directory was deleted."""
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
            f"{HOME_VARIABLE} is not printable text in UTF-8: {str(root)!a}", hint="Choose another directory"
        )
    return root


@dataclass(frozen=True, slots=True)
class Record:
    """Describes a running instance; the file exists only while all of its components run."""

    instance: str
    pid: int
    version: str
    endpoint: str
    started: str
    home: str

    def as_json(self) -> dict[str, Any]:
        """Return it as in the API and in the file."""
        return {name: getattr(self, name) for name in self.__slots__}

    def write(self, home: InstanceHome) -> None:
        """Write it, for `headrace up --detach` and for programs that look up the endpoint."""
        write_private(home.record, json.dumps(self.as_json(), indent=2) + "\n")

    @classmethod
    def read(cls, home: InstanceHome) -> Record:
        """Read the record. Raises NotRunning if the instance is not ready."""
        try:
            return cls(**json.loads(home.record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise NotRunning(
                f"the instance {home.name!r} is not running", hint="Start it with `headrace up`"
            ) from error


def wait_stopped(home: InstanceHome, timeout_seconds: float = STOP_SECONDS) -> None:
    """Return when the instance's supervisor has exited. Raises HeadraceError after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    while home.is_running():
        left = deadline - time.monotonic()
        if left <= 0:
            raise HeadraceError(
                f"the instance {home.name!r} did not stop within {timeout_seconds:.0f} s",
                hint=f"See the logs in {home.logs}. You may end its process with kill -9: the next start cleans up",
            )
        _wait_for_exit(home.lock, left)


def _wait_for_exit(lock: Path, seconds: float) -> None:
    """Wait until the process that the lock names exits, by its pidfd."""
    try:
        fd = os.pidfd_open(int(lock.read_text(encoding="ascii")))
    except (OSError, ValueError):
        time.sleep(0.01)  # exiting, or not yet written: the caller checks the lock again
        return
    try:
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        waiting.poll(seconds * 1000)
    finally:
        os.close(fd)
