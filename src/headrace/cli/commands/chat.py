"""`headrace chat`: a chat with a model through the gateway, with OpenAI's API."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import sys
from collections.abc import Generator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from headrace.cli import output
from headrace.cli.client import ApiClient
from headrace.cli.targets import client_of
from headrace.errors import HeadraceError, NotFound, NotRunning
from headrace.kinds.registry import KINDS

STAGE_PREFIX = b": headrace "
DATA_PREFIX = b"data: "
DONE = b"data: [DONE]"
MAX_TOKENS = 512
"""Default limit of an answer's tokens: without a limit, a small model may generate until its context is full."""
CONTEXT_FULL = "context_length_exceeded"
"""OpenAI's code for prompt and answer that exceed the context length."""
_CHECK_HINT = (
    "Check that the instance is running (`headrace get mdep`), and see its logs (`headrace doctor` lists them)"
)


class NoRoom(HeadraceError):
    """The conversation and an answer of the requested length exceed the model's context length."""

    reason = "NoRoom"


class AnswerCutOff(HeadraceError):
    """The stream ended before the answer was complete."""

    reason = "AnswerCutOff"

    def __init__(self) -> None:
        super().__init__(
            "the answer was cut off: the gateway closed the connection before the end, as when it is stopped",
            hint="Check that the instance is running (`headrace get mdep`), and retry",
        )


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", help="the model's public name, as listed by `/v1/models`")
    parser.add_argument("prompt", nargs="*", help="a single question; without it, a conversation until Ctrl-D")
    parser.set_defaults(words="prompt")
    parser.add_argument("--system", help="a system message")
    parser.add_argument(
        "--max-tokens", type=int, help=f"maximum tokens of an answer (default: {MAX_TOKENS}, or what fits)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="sampling temperature; 0: always the most likely token (default: 0)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Chat."""
    client = client_of(arguments)
    chat = _Chat(client.instance()["endpoint"], arguments)
    if arguments.prompt:
        chat.ask(" ".join(arguments.prompt))
        return 0
    _check_model(client, arguments.model)
    return _converse(chat)


def _check_model(client: ApiClient, name: str) -> None:
    """Raise NotFound for a model that does not exist, before a question is typed."""
    models = sorted({output.public_name(model) for model in client.get(KINDS["ModelDeployment"], None)["items"]})
    if name not in models:
        known = f"Models: {', '.join(models)}" if models else "Create one: `headrace apply -f FILE`"
        raise NotFound(f"there is no model {name!r}", hint=known)


def _converse(chat: _Chat) -> int:
    """Send each line of input until Ctrl-D; a failed answer, or Ctrl-C, does not end the conversation.

    The exit code reports a failure only without a terminal, because a user on a terminal has seen the error.
    """
    print("Ctrl-D ends the conversation, Ctrl-C an answer.")
    failed = 0
    while True:
        try:
            question = input("you> " if output.is_terminal() else "")
        except EOFError:
            print()
            return 0 if sys.stdin.isatty() else failed
        except KeyboardInterrupt:
            print()
            raise
        try:
            if question.strip():
                chat.ask(question)
        except HeadraceError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = error.exit_code
        except KeyboardInterrupt:
            continue


class _Chat:
    """A conversation: the answered questions and the answers."""

    def __init__(self, endpoint: str, arguments: argparse.Namespace) -> None:
        self._endpoint = urlsplit(endpoint)
        self._arguments = arguments
        self._messages: list[dict[str, str]] = []
        self._limit: int | None = None
        self._finish = ""
        if arguments.system:
            self._messages.append({"role": "system", "content": arguments.system})

    def ask(self, question: str) -> None:
        """Send a question and print the answer as it arrives. A failed one is not added to the conversation."""
        messages = [*self._messages, {"role": "user", "content": question}]
        answer = ""
        try:
            with closing(self._stream(messages)) as stream:  # an abort is visible to the gateway at once
                for text in stream:
                    answer += text
                    print(text, end="", flush=True)
        except (HeadraceError, KeyboardInterrupt):
            if answer:
                print(flush=True)
            raise
        print(flush=True)
        if self._finish == "length":
            print(self._cut(), file=sys.stderr)
        self._messages = [*messages, {"role": "assistant", "content": answer}]

    def _cut(self) -> str:
        if self._limit is None:
            return "cut off: the conversation has reached the model's context length"
        return f"cut off at {self._limit} tokens; --max-tokens sets the limit"

    def _stream(self, messages: list[dict[str, str]]) -> Generator[str]:
        """Yield the answer's text as it arrives. http.client ignores a truncated body, so [DONE] must mark the end."""
        connection = http.client.HTTPConnection(self._endpoint.hostname or "127.0.0.1", self._endpoint.port)
        stage = _Stage()
        begun, self._finish = False, ""
        try:
            with closing(connection), self._post(connection, messages) as response:
                for line in response:
                    if line.strip() == DONE:
                        return
                    if not line.endswith(b"\n"):
                        break
                    if line.startswith(STAGE_PREFIX) and not begun:
                        stage.show(line[len(STAGE_PREFIX) :].decode(errors="replace").strip())
                    elif line.startswith(DATA_PREFIX):
                        stage.clear()
                        chunk = json.loads(line[len(DATA_PREFIX) :])
                        text = _text_of(chunk)
                        self._finish = _finish_of(chunk) or self._finish
                        begun = begun or bool(text)
                        yield text
        except (http.client.HTTPException, OSError) as error:
            raise AnswerCutOff from error
        finally:
            stage.clear()
        raise AnswerCutOff

    def _post(self, connection: http.client.HTTPConnection, messages: list[dict[str, str]]) -> http.client.HTTPResponse:
        """Send the request. If the limit does not fit into the context, drop the default one, else raise NoRoom."""
        requested = self._arguments.max_tokens
        self._limit = MAX_TOKENS if requested is None else requested
        try:
            return self._request(connection, messages)
        except NoRoom:
            if requested is not None:
                raise
            self._limit = None
            return self._request(connection, messages)

    def _request(
        self, connection: http.client.HTTPConnection, messages: list[dict[str, str]]
    ) -> http.client.HTTPResponse:
        body: dict[str, Any] = {"model": self._arguments.model, "messages": messages, "stream": True}
        body["temperature"] = self._arguments.temperature
        if self._limit is not None:
            body["max_tokens"] = self._limit
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("HEADRACE_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = connection.getresponse()
        except (http.client.HTTPException, OSError) as error:
            raise NotRunning("the gateway does not respond", hint="See `headrace doctor`") from error
        if response.status != http.client.OK:
            raise _refusal(response)
        return response


class _Stage:
    """Startup stage of the model, shown on a terminal until the answer begins."""

    def __init__(self) -> None:
        self._shown = False

    def show(self, text: str) -> None:
        """Show a stage in place of the previous one."""
        if sys.stderr.isatty():
            self._write(output.clip(text, shutil.get_terminal_size().columns))
            self._shown = True

    def clear(self) -> None:
        """Clear the shown stage, if any; otherwise the line may be part of the answer."""
        if self._shown:
            self._write("")
            self._shown = False

    def _write(self, text: str) -> None:
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _text_of(chunk: dict[str, Any]) -> str:
    if "error" in chunk:
        raise _error(chunk["error"])
    return "".join(choice["delta"].get("content") or "" for choice in chunk.get("choices", []))


def _finish_of(chunk: dict[str, Any]) -> str:
    """Return the finish reason, which is in the last chunk."""
    return "".join(choice.get("finish_reason") or "" for choice in chunk.get("choices", []))


def _refusal(response: http.client.HTTPResponse) -> HeadraceError:
    """Return the error of a response that is not 200; the body may be a proxy's page without an error of ours."""
    try:
        return _error(json.loads(response.read())["error"])
    except (ValueError, LookupError, TypeError, AttributeError, http.client.HTTPException, OSError):
        return HeadraceError(f"the gateway returned {response.status} without a message", hint=_CHECK_HINT)


def _error(error: dict[str, Any]) -> HeadraceError:
    """Return the exception for an error in OpenAI's format. The message contains the remedy, except for API keys."""
    hint = (
        "Set HEADRACE_API_KEY to an API key (`headrace keys create NAME` creates one)"
        if error.get("code") == "invalid_api_key"
        else ""
    )
    kind = NoRoom if error.get("code") == CONTEXT_FULL else HeadraceError
    return kind(str(error.get("message", "the gateway sent an error without a message")), hint=hint)
