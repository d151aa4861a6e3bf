"""A gateway that answers as a test says, down to the bytes and the moment at which it dies."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"

Answer = Callable[[socket.socket], None]


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(payload), payload)


def said(text: str) -> bytes:
    delta = {"choices": [{"index": 0, "delta": {"content": text}}]}
    return chunk(b"data: " + json.dumps(delta).encode() + b"\n\n")


def finished(reason: str) -> bytes:
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    return chunk(b"data: " + json.dumps(last).encode() + b"\n\n")


def refused(code: str) -> bytes:
    body = json.dumps({"error": {"message": "it is too long", "code": code}}).encode()
    return b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (len(body), body)


def stage(text: str) -> bytes:
    return chunk(f": headrace stage={text}\n\n".encode())


DONE = chunk(b"data: [DONE]\n\n") + LAST


def sent(answer: bytes) -> Answer:
    """Return what sends the answer, and then closes the connection."""
    return lambda connection: connection.sendall(answer)


class FakeGateway:
    """Answers one connection after the other; `asked` are the bodies of the requests."""

    def __init__(self, *answers: Answer) -> None:
        self.asked: list[dict[str, Any]] = []
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        for answer in self._answers:
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rb") as received:
                length = 0
                while (line := received.readline()) not in (b"\r\n", b""):
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                self.asked.append(json.loads(received.read(length)))
                answer(connection)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # ends an accept that nobody will come to
        self._thread.join()
        self._listener.close()
