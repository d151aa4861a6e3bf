"""A runtime type of the tests: `headrace` with it registered, and its server (`serve ADDRESS PORT`)."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from headrace.routes.operations import COMPLETIONS
from headrace.runtimes.profile import Port, Probe, RuntimeProfile
from headrace.runtimes.registry import register

PORT = 9100
ECHO = RuntimeProfile(
    type="Echo",
    description="a server that answers with the prompt",
    source_required=False,
    image="echo:1",
    command=(sys.executable, __file__),
    arguments=lambda launch: ("serve", "$(HEADRACE_POD_IP)", launch.public_name),
    ports=(Port("http", PORT),),
    readiness=Probe("/ready"),
    liveness=None,
    operations=(COMPLETIONS,),
    capabilities=(),
    self_registers=False,
)


class Handler(BaseHTTPRequestHandler):
    """Answers a completion with its prompt and the name that it was started with."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer({}, status=200 if self.path == ECHO.readiness.path else 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._answer({"choices": [{"text": f"{sys.argv[3]}: {body['prompt']}"}]})

    def _answer(self, answer: object, status: int = 200) -> None:
        payload = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


def main() -> int:
    if sys.argv[1] == "serve":
        ThreadingHTTPServer((sys.argv[2], PORT), Handler).serve_forever()
    register(ECHO)
    from headrace.cli.main import main as headrace  # noqa: PLC0415 - register first: it reads the registry

    return headrace()


if __name__ == "__main__":
    sys.exit(main())
