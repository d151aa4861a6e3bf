"""`headrace chat`: talk to a model through the gateway, as any OpenAI client does."""

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
"""The longest answer unless another is asked for: without one, a small model that loses its thread goes on until its
context is full."""
CONTEXT_FULL = "context_length_exceeded"
"""OpenAI's code for a prompt and answer that do not fit together."""
_LOOK = "See whether the instance runs (`headrace get mdep`), and look into its logs (`headrace doctor` names them)"


class NoRoom(HeadraceError):
    """The conversation and an answer of that length are more than the model takes."""

    reason = "NoRoom"


class AnswerCutOff(HeadraceError):
    """The stream ended before the answer did."""

    reason = "AnswerCutOff"

    def __init__(self) -> None:
        super().__init__(
            "the answer was cut off: the gateway closed the connection before the end, as when it is stopped or killed",
            hint="See whether the instance runs (`headrace get mdep`), and ask again",
        )


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", help="the model's public name, as `/v1/models` lists it")
    parser.add_argument("prompt", nargs="*", help="one question; without it, a conversation until Ctrl-D")
    parser.set_defaults(words="prompt")
    parser.add_argument("--system", help="a system message")
    parser.add_argument("--max-tokens", type=int, help=f"longest answer (default: {MAX_TOKENS}, or what fits)")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="more is more varied; 0: always the likeliest token (default: 0)"
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
    """Raise NotFound before a question is typed for a model that does not exist."""
    models = sorted({output.public_name(model) for model in client.get(KINDS["ModelDeployment"], None)["items"]})
    if name not in models:
        known = f"There are: {', '.join(models)}" if models else "There is none yet: `headrace apply -f FILE`"
        raise NotFound(f"there is no model {name!r}", hint=known)


def _converse(chat: _Chat) -> int:
    """Ask what is typed until Ctrl-D; an answer that fails or is stopped by Ctrl-C ends nothing but itself.

    The exit code tells of a failure only to a script, which did not see the error when it came.
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
    """One conversation: the questions that were answered, and the answers."""

    def __init__(self, endpoint: str, arguments: argparse.Namespace) -> None:
        self._endpoint = urlsplit(endpoint)
        self._arguments = arguments
        self._messages: list[dict[str, str]] = []
        self._limit: int | None = None
        self._finish = ""
        if arguments.system:
            self._messages.append({"role": "system", "content": arguments.system})

    def ask(self, question: str) -> None:
        """Send a question and print the answer as it comes. One that fails leaves nothing in the conversation."""
        messages = [*self._messages, {"role": "user", "content": question}]
        answer = ""
        try:
            with closing(self._stream(messages)) as stream:  # the gateway learns at once that we left
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
            return "cut: the model takes no more tokens in a conversation"
        return f"cut at {self._limit} tokens; --max-tokens raises it"

    def _stream(self, messages: list[dict[str, str]]) -> Generator[str]:
        """Yield the answer's text as it comes. http.client takes a body cut short for its end, so that [DONE] tells."""
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
        """Ask for an answer. Our own limit gives way where it does not fit; one that was asked for is an error then."""
        asked = self._arguments.max_tokens
        self._limit = MAX_TOKENS if asked is None else asked
        try:
            return self._request(connection, messages)
        except NoRoom:
            if asked is not None:
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
            raise NotRunning("the gateway does not answer", hint="See `headrace doctor`") from error
        if response.status != http.client.OK:
            raise _refusal(response)
        return response


class _Stage:
    """What a waking model is doing, shown in place, to a person only, until the answer begins."""

    def __init__(self) -> None:
        self._shown = False

    def show(self, text: str) -> None:
        """Show it in place of the one before."""
        if sys.stderr.isatty():
            self._write(output.clip(text, shutil.get_terminal_size().columns))
            self._shown = True

    def clear(self) -> None:
        """Take away what is shown. Where nothing is, the line is the answer's and stays."""
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
    """Return why the answer ended, in its last chunk."""
    return "".join(choice.get("finish_reason") or "" for choice in chunk.get("choices", []))


def _refusal(response: http.client.HTTPResponse) -> HeadraceError:
    """Return the error of an answer that is not 200; a proxy's page has none of ours in it."""
    try:
        return _error(json.loads(response.read())["error"])
    except (ValueError, LookupError, TypeError, AttributeError, http.client.HTTPException, OSError):
        return HeadraceError(f"the gateway answered {response.status} without an explanation", hint=_LOOK)


def _error(error: dict[str, Any]) -> HeadraceError:
    """Return the exception for an error in OpenAI's shape. Its message says already what can be done, but for a key."""
    hint = (
        "Give an API key in HEADRACE_API_KEY (`headrace keys create NAME` makes one)"
        if error.get("code") == "invalid_api_key"
        else ""
    )
    kind = NoRoom if error.get("code") == CONTEXT_FULL else HeadraceError
    return kind(str(error.get("message", "the gateway sent an error without a message")), hint=hint)
