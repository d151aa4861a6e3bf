"""Bind mounts, by mount(2): the image of the CSI service contains no `mount` program."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 0x1, 0x2, 0x4, 0x8, 0x20, 0x1000
_MNT_DETACH, _UMOUNT_NOFOLLOW = 0x2, 0x8
_READ_ONLY = _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC


def is_bound(source: Path, target: Path) -> bool:
    """Whether `target` shows the directory `source`."""
    try:
        return os.path.samestat(source.stat(), target.stat())
    except OSError:
        return False


def bind(source: Path, target: Path) -> None:
    """Mount a directory at another one, read-only: files cannot be created, and sockets still accept connections.

    Raises OSError.
    """
    _mount(source, target, _MS_BIND)
    try:
        _mount(source, target, _READ_ONLY)  # the flags of a bind mount take effect with the second call only
    except OSError:
        unbind(target)
        raise


def unbind(target: Path) -> None:
    """Remove every mount at a directory, if there is one. Processes that use it keep it. Raises OSError."""
    while _LIBC.umount2(os.fsencode(target), _MNT_DETACH | _UMOUNT_NOFOLLOW) == 0:
        pass
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOENT):  # not a mount point; no such directory
        raise OSError(code, os.strerror(code), str(target))


def _mount(source: Path, target: Path, flags: int) -> None:
    if _LIBC.mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(flags), None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))
