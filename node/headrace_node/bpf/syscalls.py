"""The bpf(2) system call for maps and programs, without libbpf: stable UAPI of linux/bpf.h, through ctypes."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator

from headrace.bus.errors import EbpfUnavailable

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361}
_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE, _NEXT_KEY, _PROG_LOAD, _PROG_ATTACH = 0, 1, 2, 3, 4, 5, 8
HASH, SOCKHASH = 1, 18
"""Types of maps."""
_SK_MSG = 16
"""Type of program."""
_SK_MSG_VERDICT = 7
"""Type of attachment."""
_ATTR_BYTES = 128
_LOG_BYTES = 65_536
REMEDY = "Give the node agent CAP_BPF and CAP_NET_ADMIN on Linux 5.15 or later, or use the transport unix"
_libc = ctypes.CDLL(None, use_errno=True)


class BpfMap:
    """A map of the kernel with keys and values of fixed size (bytes); it lives as long as this descriptor."""

    def __init__(self, kind: int, name: str, key_bytes: int, value_bytes: int, entries: int) -> None:
        attr = struct.pack("<IIIIIII16s", kind, key_bytes, value_bytes, entries, 0, 0, 0, name.encode()[:15])
        self.fd = _bpf(_MAP_CREATE, attr, f"create the map {name}")
        self.name = name
        self._key, self._value = ctypes.create_string_buffer(key_bytes), ctypes.create_string_buffer(value_bytes)

    def update(self, key: bytes, value: bytes) -> None:
        """Insert or replace an entry. Raises OSError; E2BIG if the map is full."""
        self._key.raw, self._value.raw = key, value
        self._element(_UPDATE, self._value)

    def delete(self, key: bytes) -> bool:
        """Remove an entry; False if there was none."""
        self._key.raw = key
        try:
            self._element(_DELETE, None)
        except FileNotFoundError:
            return False
        return True

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value, None if there is no such entry."""
        self._key.raw = key
        try:
            self._element(_LOOKUP, self._value)
        except FileNotFoundError:
            return None
        return self._value.raw

    def keys(self) -> Iterator[bytes]:
        """Yield the keys present; entries that change meanwhile may be missed."""
        following = ctypes.create_string_buffer(len(self._key))
        at: ctypes.Array[ctypes.c_char] | None = None
        while True:
            address = ctypes.addressof(at) if at is not None else 0
            try:
                _bpf(_NEXT_KEY, struct.pack("<IIQQ", self.fd, 0, address, ctypes.addressof(following)), "list a map")
            except FileNotFoundError:
                return
            yield following.raw
            at = ctypes.create_string_buffer(following.raw, len(following))

    def close(self) -> None:
        """Close the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _element(self, command: int, value: ctypes.Array[ctypes.c_char] | None) -> None:
        address = ctypes.addressof(value) if value is not None else 0
        attr = struct.pack("<IIQQQ", self.fd, 0, ctypes.addressof(self._key), address, 0)
        _bpf(command, attr, f"use the map {self.name}")


def load_sk_msg(instructions: bytes, license_name: bytes) -> int:
    """Verify and load an sk_msg program; return its descriptor.

    Raises:
        EbpfUnavailable: the kernel refuses; the message ends with the verifier's last lines.
    """
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licensed = ctypes.create_string_buffer(license_name)
    log = ctypes.create_string_buffer(_LOG_BYTES)
    head = (_SK_MSG, len(instructions) // 8, ctypes.addressof(code), ctypes.addressof(licensed))
    name = b"headrace"
    attr = struct.pack("<IIQQIIQII16sII", *head, 1, _LOG_BYTES, ctypes.addressof(log), 0, 0, name, 0, _SK_MSG_VERDICT)
    try:
        return _bpf(_PROG_LOAD, attr, "load the program")
    except OSError as error:
        lines = log.value.decode(errors="replace").strip().splitlines()[-3:]
        raise EbpfUnavailable(
            f"the kernel refuses the eBPF program: {error.strerror}: {' / '.join(lines)}", hint=REMEDY
        ) from error


def attach_sk_msg(program: int, sockhash: BpfMap) -> None:
    """Run the program on each send of the sockets in the map from now on."""
    _bpf(_PROG_ATTACH, struct.pack("<IIII", sockhash.fd, program, _SK_MSG_VERDICT, 0), "attach the program")


def _bpf(command: int, attr: bytes, what: str) -> int:
    """Call bpf(2). Raises OSError, and EbpfUnavailable where the kernel or a capability is missing."""
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise EbpfUnavailable(f"cannot {what}: the number of bpf(2) on {platform.machine()} is unknown", hint=REMEDY)
    buffer = ctypes.create_string_buffer(attr, _ATTR_BYTES)
    done: int = _libc.syscall(number, command, buffer, len(attr))
    if done >= 0:
        return done
    code = ctypes.get_errno()
    if code in {errno.EPERM, errno.ENOSYS}:
        raise EbpfUnavailable(f"cannot {what}: {os.strerror(code)}", hint=REMEDY)
    raise OSError(code, f"cannot {what}: {os.strerror(code)}")
