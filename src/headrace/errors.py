"""The exception tree: each error has a cause and a remedy for the reader.

Each class defines its HTTP status, condition reason and exit code, so that HTTP responses, conditions and commands
report an error in the same way. `reason` is CamelCase and part of the API: it appears in conditions, in the
`x-headrace-reason` header and in events.
"""

from __future__ import annotations

import errno

from typing_extensions import override


class HeadraceError(Exception):
    """Base of all errors that are reported to users.

    Args:
        message: what happened and why, in one sentence, without a final full stop.
        hint: the remedy, an imperative sentence; empty if there is none.
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
    """A resource violates its schema or a rule; `causes` has an error for each field."""

    http_status = 422
    reason = "InvalidSpec"
    exit_code = 2

    def __init__(self, message: str, *, causes: tuple[FieldError, ...], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.causes = causes


class FieldError(Exception):
    """The error of one field: `field` is a path in kubectl's notation, e.g. `spec.scaling.minReplicas`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class NotFound(HeadraceError):
    """The named object does not exist."""

    http_status = 404
    reason = "NotFound"
    exit_code = 1


class CannotStart(HeadraceError):
    """A process, an instance or a runtime failed to start; the message is the cause in one line."""

    http_status = 503
    reason = "CannotStart"
    exit_code = 1


class NotRunning(HeadraceError):
    """No local instance is running."""

    http_status = 503
    reason = "NotRunning"
    exit_code = 3


class SourceError(HeadraceError):
    """Fetching or verifying the file of a model source failed."""

    http_status = 503
    reason = "FetchFailed"
    exit_code = 10


class SourceUnreachable(SourceError):
    """The download failed: no route, connection refused, timeout, not found, truncated. A retry may succeed."""

    reason = "SourceUnreachable"


class SourceNotAllowed(SourceError):
    """The configuration forbids the URI's scheme or address. A retry fails in the same way."""

    http_status = 422
    reason = "SourceNotAllowed"
    exit_code = 11


class DigestMismatch(SourceError):
    """The file does not have the required digest. A retry succeeds only after the source was repaired."""

    reason = "DigestMismatch"
    exit_code = 12


class InvalidModel(CannotStart):
    """The file is not a model that this runtime can serve: corrupt, truncated, or of an unknown architecture."""

    reason = "InvalidModel"
    exit_code = 14


class SystemFault(HeadraceError):
    """An operation on a file, a directory, a socket or a process failed in the operating system: see `system_fault`."""

    http_status = 500
    reason = "SystemFault"
    exit_code = 1
    remedy: str = ""
    """The remedy, without a full stop."""


class NoSpace(SystemFault):
    """A disk is full: that of the models, of an instance, or of the command's output."""

    http_status = 507
    reason = "NoSpace"
    exit_code = 13
    remedy = "Free some space on its disk"


class AccessDenied(SystemFault):
    """A file or directory belongs to another user, or its file system is read-only."""

    reason = "AccessDenied"
    exit_code = 15
    remedy = "Check its owner and mode, and those of the directories above it"


class NameTooLong(SystemFault):
    """A path is longer than the file system allows."""

    reason = "NameTooLong"
    exit_code = 16
    remedy = "Use a shorter one: a name has at most 255 bytes, a whole path 4,095"


SYSTEM_FAULTS: dict[str, type[SystemFault]] = {
    kind.reason: kind for kind in (SystemFault, NoSpace, AccessDenied, NameTooLong)
}
"""By reason, for clients that receive the error from another process."""
_BY_NUMBER: dict[int, type[SystemFault]] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), NoSpace),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), AccessDenied),
    errno.ENAMETOOLONG: NameTooLong,
}
_SHOWN_CHARACTERS = 160
"""Longest path in a message: a longer one would fill the terminal."""


def system_fault(error: OSError, *, what: str = "", or_else: str = "") -> SystemFault:
    """Return the error to report for an OSError. Every OSError that is shown to users is converted here.

    `what` failed (default: the use of the error's file); `or_else` is an alternative remedy, in lower case.
    """
    kind = _BY_NUMBER.get(error.errno or 0, SystemFault)
    cause = error.strerror or str(error) or type(error).__name__
    named = "something" if error.filename is None else shortened(error.filename)
    subject = what or f"cannot use {named}"
    remedies = [remedy for remedy in (kind.remedy, or_else) if remedy]
    hint = ", or ".join(remedies)
    return kind(f"{subject}: {cause}", hint=hint[:1].upper() + hint[1:])


def is_full(error: OSError) -> bool:
    """Whether the disk is full, or the user's quota on it is exceeded."""
    return _BY_NUMBER.get(error.errno or 0) is NoSpace


def shortened(path: object) -> str:
    """Return a path, shortened for a message."""
    text, half = str(path), _SHOWN_CHARACTERS // 2
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:half]}…{text[-half:]}"
