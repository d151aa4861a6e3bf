"""`headrace chat`: talk to a model through the gateway, as any OpenAI client does."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from headrace.cli import output
from headrace.cli.targets import client_of
from headrace.errors import HeadraceError, NotRunning

STAGE_PREFIX = b": headrace "
DATA_PREFIX = b"data: "
DONE = b"data: [DONE]"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", help="the model's public name, as `/v1/models` lists it")
    parser.add_argument("prompt", nargs="*", help="one question; without it, a conversation until Ctrl-D")
    parser.set_defaults(words="prompt")
    parser.add_argument("--system", help="a system message")
    parser.add_argument("--max-tokens", type=int, help="longest answer (default: what the model takes)")
    parser.add_argument("--temperature", type=float, help="0: always the likeliest token")


def run(arguments: argparse.Namespace) -> int:
    """Chat."""
    chat = _Chat(client_of(arguments).instance()["endpoint"], arguments)
    if arguments.prompt:
        chat.ask(" ".join(arguments.prompt))
        return 0
    print("Ctrl-D ends the conversation.")
    while True:
        try:
            question = input("you> " if output.is_terminal() else "")
        except EOFError:
            print()
            return 0
        if question.strip():
            chat.ask(question)


class _Chat:
    """One conversation."""

    def __init__(self, endpoint: str, arguments: argparse.Namespace) -> None:
        self._endpoint = urlsplit(endpoint)
        self._arguments = arguments
        self._messages: list[dict[str, str]] = []
        if arguments.system:
            self._messages.append({"role": "system", "content": arguments.system})

    def ask(self, question: str) -> None:
        """Send a question and print the answer as it comes."""
        self._messages.append({"role": "user", "content": question})
        answer = ""
        for text in self._stream():
            answer += text
            print(text, end="", flush=True)
        print()
        self._messages.append({"role": "assistant", "content": answer})

    def _stream(self) -> Iterator[str]:
        for line in self._post():
            if line.startswith(STAGE_PREFIX):
                _show_stage(line[len(STAGE_PREFIX) :].decode().strip())
            elif line.startswith(DATA_PREFIX) and line.strip() != DONE:
                _show_stage("")
                yield _text_of(json.loads(line[len(DATA_PREFIX) :]))

    def _post(self) -> http.client.HTTPResponse:
        body: dict[str, Any] = {"model": self._arguments.model, "messages": self._messages, "stream": True}
        for option in ("max_tokens", "temperature"):
            if getattr(self._arguments, option) is not None:
                body[option] = getattr(self._arguments, option)
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("HEADRACE_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        connection = http.client.HTTPConnection(self._endpoint.hostname or "127.0.0.1", self._endpoint.port)
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = connection.getresponse()
        except ConnectionError as error:
            raise NotRunning("the gateway does not answer", hint="See `headrace doctor`") from error
        if response.status != http.client.OK:
            raise _error(json.loads(response.read() or b"{}"))
        return response


def _text_of(chunk: dict[str, Any]) -> str:
    if "error" in chunk:
        raise _error(chunk)
    return "".join(choice["delta"].get("content") or "" for choice in chunk.get("choices", []))


def _show_stage(text: str) -> None:
    """Show what a waking model is doing, in place, to a person only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _error(answer: dict[str, Any]) -> HeadraceError:
    error = answer.get("error", {})
    hint = "Give an API key in HEADRACE_API_KEY" if error.get("code") == "invalid_api_key" else ""
    return HeadraceError(str(error.get("message", "the gateway answered without an explanation")), hint=hint)
