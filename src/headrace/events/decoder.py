"""What comes in from NATS: anybody with a login may have written it."""

from __future__ import annotations

import logging
from typing import TypeVar

from nats.aio.msg import Msg
from pydantic import ValidationError

from headrace.events.messages import Message

log = logging.getLogger(__name__)

AnyMessage = TypeVar("AnyMessage", bound=Message)
MAX_TOLD = 1024
"""Lines in all: whoever has a login may invent subjects."""


class Decoder:
    """Decodes. What is no message costs a line in the log, once for a subject and a fault, and nothing else."""

    def __init__(self) -> None:
        self.fault = ""
        """What was wrong with the last one, if it was ignored."""
        self._told: set[tuple[str, str]] = set()

    def decode(self, kind: type[AnyMessage], msg: Msg) -> AnyMessage | None:
        """Return the message, or None when it is none, or speaks of another pod than its subject.

        A pod's name goes into subjects, headers and the log: as a token of a subject it can break none of them.
        """
        try:
            message = kind.decode(msg.data)
        except ValidationError as error:
            faults = {".".join(map(str, fault["loc"])) or "no JSON object" for fault in error.errors()}
            self._ignore(msg.subject, f"not a valid {kind.__name__}: {', '.join(sorted(faults))}")
            return None
        if getattr(message, "pod", None) not in (None, msg.subject.rpartition(".")[2]):
            self._ignore(msg.subject, "it speaks of another pod")
            return None
        return message

    def _ignore(self, subject: str, why: str) -> None:
        self.fault = why
        if (subject, why) not in self._told and len(self._told) < MAX_TOLD:
            self._told.add((subject, why))
            log.warning("ignored what is said on %s: %s", subject, why)
