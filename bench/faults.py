"""Bench of local mode's recovery after kill -9: the gateway, and a cold start requested while NATS is unavailable."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from bars import bar, environment, spread
from local import DEADLINE_SECONDS, IDLE_SECONDS, PORT, ROOT, BenchInstance, Wake

KILLS = 10


def child(instance: BenchInstance, program: str) -> int | None:
    """Return the process id of the supervisor's child that runs the program."""
    for pid in instance.children():
        with contextlib.suppress(OSError):
            if program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
    return None


def until(look: Callable[[], object], what: str) -> None:
    """Wait until `look` returns true."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not look():
        assert time.monotonic() < deadline, f"not in {DEADLINE_SECONDS:.0f} s: {what}"
        time.sleep(0.0005)


def serves() -> bool:
    """Whether the gateway serves a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=DEADLINE_SECONDS)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/v1/models")
        return "smollm2-135m-instruct" in connection.getresponse().read().decode()
    return False


def gateway_restart(instance: BenchInstance) -> float:
    """Return the seconds from killing the gateway until it serves a new connection."""
    pid = child(instance, "headrace-gateway")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    until(serves, "the gateway serves again")
    return time.monotonic() - began


def wake_after_broker(instance: BenchInstance) -> float:
    """Return the seconds from the restart of NATS to the runtime's process, for a request sent during the outage.

    The supervisor is stopped meanwhile, because it restarts NATS within milliseconds.
    """
    instance.wait_idle()
    broker = child(instance, "nats-server")
    assert instance.process is not None
    assert broker is not None
    wake = Wake()
    os.kill(instance.process.pid, signal.SIGSTOP)
    try:
        os.kill(broker, signal.SIGKILL)
        wake.start()
        until(lambda: wake.sent, "the request is sent")
    finally:
        os.kill(instance.process.pid, signal.SIGCONT)
    until(lambda: child(instance, "nats-server") not in (None, broker), "NATS is restarted")
    restarted = time.monotonic()
    until(lambda: instance.runtime_pid() is not None, "the model is started")
    woken = time.monotonic()
    wake.join()
    assert wake.first_token, "the stream ended without a token"
    return woken - restarted


def main() -> None:
    """Measure and print."""
    environment()
    with tempfile.TemporaryDirectory(prefix="hr") as directory:
        home = Path(directory)
        manifest = yaml.safe_load((ROOT / "examples/smollm2.yaml").read_text())
        manifest["spec"]["scaling"]["idleTimeoutSeconds"] = IDLE_SECONDS
        file = home / "model.yaml"
        file.write_text(yaml.safe_dump(manifest))
        instance = BenchInstance(home, file)
        instance.start()
        instance.wait_idle()
        restarts, wakes = [], []
        for _ in range(
            KILLS
        ):  # alternately, because a process that fails three times within ten seconds is restarted with a delay
            restarts.append(gateway_restart(instance))
            wakes.append(wake_after_broker(instance))
        instance.stop()
    spread("gateway killed to served", restarts, "s")
    spread("NATS restarted to process of a queued request", wakes, "s")
    bar("gateway-restart", statistics.median(restarts), 2.0, "s")
    bar("wake-after-broker", statistics.median(wakes), 2.0, "s")


if __name__ == "__main__":
    main()
