"""The nats-server program: finding it, and knowing when it can be used and when it obeys a new configuration."""

from __future__ import annotations

import asyncio
import json
import signal

from headrace.errors import CannotStart, HeadraceError
from headrace.process import Process
from headrace.programs import find_program

LOOK_SECONDS = 0.005
"""Between two looks: a refused connection to this machine costs 30 µs, and both waits are of milliseconds."""
RELOAD_SECONDS = 5.0
"""A reload takes 1 ms, and some more for thousands of users."""


def find_nats_server() -> str:
    """Return the program's path. Raises CannotStart when this machine does not have it."""
    return find_program("nats-server", hint="Install it: pip install 'headrace[broker]'")


async def until_ready(process: Process, host: str, port: int, seconds: float, *, hint: str) -> None:
    """Return when it greets a client. Raises CannotStart when it ends before, or takes longer."""
    ended = asyncio.ensure_future(process.wait())
    try:
        async with asyncio.timeout(seconds):
            while not await _greets(host, port):
                if ended.done():
                    raise CannotStart(f"nats-server ended with code {ended.result()}", hint=hint)
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError as error:
        raise CannotStart(f"nats-server was not ready within {seconds:.0f} s", hint=hint) from error
    finally:
        ended.cancel()


async def reload(process: Process, host: str, monitoring_port: int) -> None:
    """Let it read its configuration again; return when it obeys. Raises HeadraceError when it does not.

    Its monitoring port tells when the configuration in force was read; a reload that fails leaves that time as it is.
    """
    try:
        async with asyncio.timeout(RELOAD_SECONDS):
            before = await _config_load_time(host, monitoring_port)
            process.signal(signal.SIGHUP)
            while await _config_load_time(host, monitoring_port) == before:  # noqa: ASYNC110 - another process
                await asyncio.sleep(LOOK_SECONDS)
    except (TimeoutError, OSError, ValueError) as error:
        why = str(error) or f"nothing happened within {RELOAD_SECONDS:.0f} s"
        raise HeadraceError(
            f"nats-server did not take its new configuration: {why}", hint="Its log tells more"
        ) from error


async def _greets(host: str, port: int) -> bool:
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
    """Return the time as the server writes it. Raises OSError or ValueError when it does not answer."""
    reader, writer = await asyncio.open_connection(host, monitoring_port)
    try:
        writer.write(b"GET /varz HTTP/1.0\r\n\r\n")
        _, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    finally:
        writer.close()
    return str(json.loads(body).get("config_load_time"))
