"""Decoding of messages from NATS, which any client with a login may have written."""

from __future__ import annotations

import logging
from typing import TypeVar

from pydantic import ValidationError

from headrace.events.messages import Message
from headrace.events.nats_library import Msg

log = logging.getLogger(__name__)

AnyMessage = TypeVar("AnyMessage", bound=Message)
MAX_LOGGED = 1024
"""Limit of log lines, because any client with a login can create subjects."""


class Decoder:
    """Decodes messages. Invalid ones are ignored and logged, once for a subject and a fault."""

    def __init__(self) -> None:
        self.fault = ""
        """Why the last message was ignored, if it was."""
        self._logged: set[tuple[str, str]] = set()

    def decode(self, kind: type[AnyMessage], msg: Msg) -> AnyMessage | None:
        """Return the message, or None if it is invalid or names another pod than its subject.

        A pod's name becomes part of subjects, headers and log lines. As a token of a subject, it is safe in all.
        """
        try:
            message = kind.decode(msg.data)
        except ValidationError as error:
            faults = {".".join(map(str, fault["loc"])) or "no JSON object" for fault in error.errors()}
            self._ignore(msg.subject, f"not a valid {kind.__name__}: {', '.join(sorted(faults))}")
            return None
        if getattr(message, "pod", None) not in (None, msg.subject.rpartition(".")[2]):
            self._ignore(msg.subject, "it names another pod than its subject")
            return None
        return message

    def _ignore(self, subject: str, why: str) -> None:
        self.fault = why
        if (subject, why) not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add((subject, why))
            log.warning("ignored a message on %s: %s", subject, why)
