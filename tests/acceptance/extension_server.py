"""The server of the runtime type `Echo` (`python3 extension_server.py HOST MODEL`): it imports nothing of headrace."""

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Echo(BaseHTTPRequestHandler):
    """Answers every POST with the name of the model, the path and the body."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer the probes."""
        self._answer(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self._answer(f"{sys.argv[2]} {self.path} {body.decode()}".encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    HTTPServer((sys.argv[1], 8000), Echo).serve_forever()
