"""`headrace up`: run an instance on this machine, with resources from files."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import re
import subprocess
import sys
import time
from typing import Any
from urllib.parse import urlsplit

from headrace.cli import manifests, output
from headrace.cli.client import ApiClient, instance_option
from headrace.cli.commands.apply import kind_of, warn_of_replicas
from headrace.cli.live import LiveView
from headrace.cli.manifests import Document
from headrace.cli.targets import add_namespace
from headrace.errors import CannotStart, InvalidResource, NotRunning
from headrace.kinds.registry import RESOURCE_KINDS
from headrace.local.home import InstanceHome, Record

DETACH_SECONDS = 60.0
POLL_SECONDS = 0.02
TRY_QUESTION = "What is the capital of France?"
"""Question of the suggested request, with a short answer that a small model generates correctly."""
TRY_TOKENS = 60
"""Token limit of its answer, because a small model may not stop by itself."""
MAX_PORT = 65535


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("-f", "--filename", action="append", default=[], metavar="FILE", help="apply this file")
    add_namespace(parser, "namespace of resources without one")
    parser.add_argument("--host", default="127.0.0.1", help="address of the gateway (default: 127.0.0.1)")
    parser.add_argument("--port", type=_port, help="port of the gateway (default: 8080, or the next free one)")
    parser.add_argument(
        "--allow-loopback-sources", action="store_true", help="allow https:// sources on this machine (a local mirror)"
    )
    parser.add_argument("--detach", action="store_true", help="run in the background; stop with `headrace down`")


def run(arguments: argparse.Namespace) -> int:
    """Run the instance until Ctrl-C, or start it in the background."""
    documents = [document for path in arguments.filename for document in manifests.read(path)]
    for document in documents:
        document.manifest["metadata"].setdefault("namespace", arguments.namespace)
    _check(documents)
    home = InstanceHome.of(arguments.instance)
    if arguments.detach:
        return _detach(home, arguments, documents)
    home.make()
    logging.raiseExceptions = False  # a log line is lost if the disk is full; its traceback would hide the error
    logging.basicConfig(
        filename=home.logs / "headrace.log",
        encoding="utf-8",
        errors="backslashreplace",
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    # These imports take half a second, which other commands do not need.
    from headrace.local import instance  # noqa: PLC0415 - see above

    options = instance.InstanceOptions(
        home=home,
        manifests=tuple(document.manifest for document in documents),
        host=arguments.host,
        port=arguments.port,
        allow_loopback_sources=arguments.allow_loopback_sources,
    )
    return instance.run(options, _ProgressPrinter(home, documents, _key_note(home, arguments.host)))


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give 0 to {MAX_PORT}, 0 for any free one")
    return int(text)


def _check(documents: list[Document]) -> None:
    """Raise InvalidResource before anything is started, and print each error with file and line."""
    faulty = False
    for document in documents:
        resource = RESOURCE_KINDS.get(kind_of(document).kind)
        if resource is None:
            continue
        try:
            resource.schema().validate(document.manifest)
        except InvalidResource as error:
            faulty = True
            for fault in error.causes:
                print(document.where(fault), file=sys.stderr)
        warn_of_replicas(document)
    if faulty:
        raise InvalidResource("nothing was started", causes=(), hint="Fix the lines above and try again")


def _key_note(home: InstanceHome, host: str) -> str:
    """Return how to create the API key that requests to an address that is not loopback need; empty for loopback."""
    from headrace.local.gateway_process import needs_keys  # noqa: PLC0415 - see run

    try:
        needed = needs_keys(host)
    except ValueError:  # not an address: the instance reports it
        return ""
    create = f"export HEADRACE_API_KEY=$(headrace keys create{instance_option(home.name)} NAME)"
    return f"keys: {host} is not loopback, so every request needs an API key: {create}" if needed else ""


class _ProgressPrinter:
    """Prints the progress of the instance; a failed output (a full disk, a closed pipe) does not stop the instance."""

    def __init__(self, home: InstanceHome, documents: list[Document], key_note: str) -> None:
        self._home = home
        self._documents = documents
        self._key_note = key_note
        self._began = time.monotonic()
        self._live = LiveView(ApiClient(home.socket))

    def __call__(self, stage: str, detail: str) -> None:
        if stage == "stopping":
            self._live.pause()
        with contextlib.suppress(OSError):
            if stage == "ready":
                self._print_ready(detail)
            else:
                print(f"{stage}: {detail}", flush=True)
        if stage == "ready":
            self._live.start()

    def _print_ready(self, endpoint: str) -> None:
        print(f"ready in {time.monotonic() - self._began:.1f} s: {endpoint}/v1  (logs: {self._home.logs})")
        if self._key_note:
            print(self._key_note)
        names = [output.public_name(document.manifest) for document in self._documents if _is_model(document.manifest)]
        option = instance_option(self._home.name)
        if names:
            messages = [{"role": "user", "content": TRY_QUESTION}]
            limits = {"temperature": 0, "max_tokens": TRY_TOKENS, "stream": True}
            body = json.dumps({"model": names[0], "messages": messages, **limits})
            print(f"try:  headrace chat{option} {names[0]}")
            headers = "-H 'Content-Type: application/json'"
            headers += ' -H "Authorization: Bearer $HEADRACE_API_KEY"' if self._key_note else ""
            print(f"      curl -N {endpoint}/v1/chat/completions {headers} -d '{body}'")
        else:
            print(f"next: headrace apply{option} -f FILE")
        interrupt = "Ctrl-C" if output.is_terminal() else "SIGINT"
        print(f"stop: {interrupt} or `headrace down{option}`" + "\n" * output.is_terminal(), flush=True)


def _is_model(manifest: dict[str, Any]) -> bool:
    return bool(manifest["kind"] == "ModelDeployment")


def _detach(home: InstanceHome, arguments: argparse.Namespace, documents: list[Document]) -> int:
    """Start this command again in its own session, and wait until that instance is ready.

    It receives the validated resources on its standard input, because standard input and a pipe (`-f -`, `-f <(…)`)
    can be read only once, and a file may have changed since.
    """
    home.make()
    home.check_stopped()
    log = home.logs / "up.log"
    command = [sys.executable, "-m", "headrace.cli.main", "up", "--instance", home.name]
    command += ["--namespace", arguments.namespace, "--host", arguments.host]
    command += [] if arguments.port is None else ["--port", str(arguments.port)]
    command += ["--allow-loopback-sources"] if arguments.allow_loopback_sources else []
    command += ["--filename", "-"] if documents else []
    with log.open("ab") as out:  # in append mode, so that truncating it meanwhile leaves no hole
        out.truncate(0)
        background = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True, encoding="utf-8"
        )
    assert background.stdin is not None
    with contextlib.suppress(BrokenPipeError), background.stdin as pipe:  # broken if it has exited: handled below
        pipe.write(manifests.write(document.manifest for document in documents))
    deadline = time.monotonic() + DETACH_SECONDS
    while time.monotonic() < deadline:
        if background.poll() is not None:
            raise _ended(background.returncode, log.read_text(encoding="utf-8", errors="replace"), home)
        try:
            record = Record.read(home)
        except NotRunning:
            time.sleep(POLL_SECONDS)
            continue
        if record.pid == background.pid:
            from headrace.local.gateway_process import DEFAULT_PORT  # noqa: PLC0415 - see run

            port = urlsplit(record.endpoint).port
            if arguments.port is None and port != DEFAULT_PORT:
                print(f"port {DEFAULT_PORT} is taken: using {port}")
            option = instance_option(home.name)
            print(f"the instance {home.name!r} is ready: {record.endpoint}/v1")
            if note := _key_note(home, arguments.host):
                print(note)
            print(f"next: headrace get mdep{option}; stop it with `headrace down{option}`")
            return 0
        time.sleep(POLL_SECONDS)
    raise CannotStart(f"the instance was not ready within {DETACH_SECONDS:.0f} s", hint=f"See {log}")


def _ended(code: int, printed: str, home: InstanceHome) -> CannotStart:
    """Return the error of an instance that exited before it was ready: its error message and its exit code."""
    message = re.split(r"^error: ", printed, flags=re.MULTILINE)[-1].strip()
    hint = "" if message else f"See {home.logs}"
    error = CannotStart(message or f"the instance exited with code {code}", hint=hint)
    error.exit_code = code if code > 0 else CannotStart.exit_code
    return error
