"""The one exception tree: what went wrong, why, and what the reader can do about it.

Every class knows the three faces of its failure, so that the HTTP answer, the status condition and the exit code
of a command can never disagree. `reason` is CamelCase and part of the API: it appears in conditions, in the
`x-headrace-reason` header and in events.
"""

from __future__ import annotations

import errno

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


class InvalidModel(CannotStart):
    """The file is not a model that this runtime can serve: broken, cut, or of an unknown architecture."""

    reason = "InvalidModel"
    exit_code = 14


class SystemFault(HeadraceError):
    """The operating system refuses a file, a directory, a socket or a process: see `explained`."""

    http_status = 500
    reason = "SystemFault"
    exit_code = 1
    remedy: str = ""
    """What the reader can do about it, without a full stop."""


class NoSpace(SystemFault):
    """A disk is full: that of the models, that of an instance, or where the output goes."""

    http_status = 507
    reason = "NoSpace"
    exit_code = 13
    remedy = "Free some space on its disk"


class AccessDenied(SystemFault):
    """A file or directory belongs to somebody else, or lies on a file system that is read-only."""

    reason = "AccessDenied"
    exit_code = 15
    remedy = "Check its owner and mode, and those of the directories above it"


class NameTooLong(SystemFault):
    """A path is longer than the file system takes."""

    reason = "NameTooLong"
    exit_code = 16
    remedy = "Use a shorter one: a name has at most 255 bytes, a whole path 4,095"


SYSTEM_FAULTS: dict[str, type[SystemFault]] = {
    kind.reason: kind for kind in (SystemFault, NoSpace, AccessDenied, NameTooLong)
}
"""By reason, for who gets one from another process."""
_BY_NUMBER: dict[int, type[SystemFault]] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), NoSpace),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), AccessDenied),
    errno.ENAMETOOLONG: NameTooLong,
}
_SHOWN_CHARACTERS = 160
"""Of a path: one that is too long would fill the terminal."""


def explained(error: OSError, *, what: str = "", or_else: str = "") -> SystemFault:
    """Return what an error of the operating system means to a person. Every such error that is shown passes here.

    `what` failed (default: the use of the file that the error names); `or_else` is another way out, in lower case.
    """
    kind = _BY_NUMBER.get(error.errno or 0, SystemFault)
    cause = error.strerror or str(error) or type(error).__name__
    named = "something" if error.filename is None else shortened(error.filename)
    subject = what or f"cannot use {named}"
    remedies = [remedy for remedy in (kind.remedy, or_else) if remedy]
    hint = ", or ".join(remedies)
    return kind(f"{subject}: {cause}", hint=hint[:1].upper() + hint[1:])


def is_full(error: OSError) -> bool:
    """Whether the disk, or the share of it that the user has, is full."""
    return _BY_NUMBER.get(error.errno or 0) is NoSpace


def shortened(path: object) -> str:
    """Return a path as a message shows it."""
    text, half = str(path), _SHOWN_CHARACTERS // 2
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:half]}…{text[-half:]}"
