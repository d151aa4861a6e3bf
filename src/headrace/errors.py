"""The one exception tree: what went wrong, why, and what the reader can do about it.

Every class knows the three faces of its failure, so that the HTTP answer, the status condition and the exit code
of a command can never disagree. `reason` is CamelCase and part of the API: it appears in conditions, in the
`x-headrace-reason` header and in events.
"""

from __future__ import annotations

from typing_extensions import override


class HeadraceError(Exception):
    """Base of every failure that headrace explains to a person.

    Args:
        message: what happened and why, in one sentence, without a final full stop.
        hint: what the reader can do, an imperative sentence; empty when there is nothing to do.
    """

    http_status: int = 500
    reason: str = "InternalError"
    exit_code: int = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @override
    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class InvalidResource(HeadraceError):
    """A resource breaks its schema or a rule; `causes` name each field."""

    http_status = 422
    reason = "InvalidSpec"
    exit_code = 2

    def __init__(self, message: str, *, causes: tuple[FieldError, ...], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.causes = causes


class FieldError(Exception):
    """One field's fault: `field` is a path as kubectl prints it, e.g. `spec.scaling.minReplicas`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class NotFound(HeadraceError):
    """The named thing does not exist."""

    http_status = 404
    reason = "NotFound"
    exit_code = 1


class UnsupportedKind(HeadraceError):
    """The local cluster does not carry out this kind of object."""

    http_status = 422
    reason = "UnsupportedKind"
    exit_code = 2


class CannotStart(HeadraceError):
    """A process, an instance or a runtime could not be brought up; the message is the cause in one line."""

    http_status = 503
    reason = "CannotStart"
    exit_code = 1


class NotRunning(HeadraceError):
    """No local instance answers."""

    http_status = 503
    reason = "NotRunning"
    exit_code = 3


class SourceError(HeadraceError):
    """A model source could not be turned into a verified file."""

    http_status = 503
    reason = "FetchFailed"
    exit_code = 10


class SourceUnreachable(SourceError):
    """The bytes could not be had: no route, refused, timed out, not found, cut short. Trying again may heal it."""

    reason = "SourceUnreachable"


class SourceNotAllowed(SourceError):
    """The URI's scheme or address is refused by configuration. Trying again does not help."""

    http_status = 422
    reason = "SourceNotAllowed"
    exit_code = 11


class DigestMismatch(SourceError):
    """The bytes came, and are not the ones promised. Trying again helps only when the source was repaired."""

    reason = "DigestMismatch"
    exit_code = 12


class NoSpace(SourceError):
    """The model directory is full."""

    reason = "NoSpace"
    exit_code = 13


class InvalidModel(CannotStart):
    """The file is not a model that this runtime can serve: broken, cut, or of an unknown architecture."""

    reason = "InvalidModel"
    exit_code = 14
