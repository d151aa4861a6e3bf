"""The client against an instance that dies in the midst of an answer, and names that are no names."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from headrace.cli.client import ApiClient, error_of, path_of
from headrace.errors import NotRunning
from headrace.kinds.registry import KINDS

CUT_OFF = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nhello\n\r\n"


def test_log_when_the_instance_exits_then_the_end_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(CUT_OFF)

        thread = threading.Thread(target=answer)
        thread.start()
        chunks = ApiClient(path).logs("default", "p", follow=True, tail=None, previous=False)
        assert next(chunks) == b"hello\n"
        with pytest.raises(NotRunning):
            next(chunks)
        thread.join()


def test_path_when_a_name_is_no_name_then_it_names_nothing_else() -> None:
    kind = KINDS["ModelDeployment"]
    assert path_of(kind, "a b", "x/../y?z").endswith("/namespaces/a%20b/modeldeployments/x%2F..%2Fy%3Fz")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"message": "GET /x failed: KeyError", "code": 500}'])
def test_error_when_the_instance_fails_then_its_log_is_named(body: bytes) -> None:
    assert "headrace.log" in error_of(500, body, log=Path("/home/logs/headrace.log")).hint
