"""A custom container that does not register itself: an HTTP server with OpenAI's API."""

from __future__ import annotations

import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import Any

PORT = 8000


class Echo(BaseHTTPRequestHandler):
    """Returns the prompt."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """List the single model."""
        self._answer({"object": "list", "data": [{"id": "echo", "object": "model", "created": 0, "owned_by": "echo"}]})

    def do_POST(self) -> None:
        """Return a completion."""
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        choice = {"index": 0, "text": request.get("prompt", ""), "finish_reason": "stop"}
        self._answer({"id": "1", "object": "text_completion", "created": 0, "model": "echo", "choices": [choice]})

    def _answer(self, payload: dict[str, Any]) -> None:
        body = json.dumps(payload).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _stop(number: int, frame: FrameType | None) -> None:
    del number, frame
    sys.exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)  # the first process of a container ignores it by default
    server = ThreadingHTTPServer(("", PORT), Echo)
    server.daemon_threads = True
    print("the echo is ready", flush=True)
    server.serve_forever()
