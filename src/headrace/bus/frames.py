"""The 64-byte frame: a descriptor of an object, or a message of the bus itself.

Little endian: u32 dst, u32 src, u16 version, u16 kind, u32 seq, u8[16] key, u64 offset, u64 length, u32 epoch,
u32 value (the bits of a float32 weight, or a number of credits), u32 zero, u32 crc (CRC-32 of the 60 bytes before it).
dst comes first because the eBPF program reads only the first eight bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from headrace.bus.errors import InvalidFrame

FRAME_BYTES = 64
VERSION = 1
ROUTER = 0
"""The endpoint id of the router itself. No endpoint has it."""
NO_KEY = bytes(16)
_FIELDS = struct.Struct("<IIHHI16sQQIII")
_CRC = struct.Struct("<I")
_FLOAT = struct.Struct("<f")
_BITS = struct.Struct("<I")
_U32, _U64 = 1 << 32, 1 << 64


class Kind(IntEnum):
    """What a frame is for. The first four carry descriptors and consume a credit of their destination."""

    UPDATE = 1
    """A model update to fold; `value` has its weight."""
    PARTIAL = 2
    """A partial aggregate; `value` has its weight."""
    RELEASE = 3
    """The sender no longer needs the object."""
    REQ = 4
    """A request whose body is the object."""
    CREDIT = 5
    """`value` more frames may be sent to the source of this frame."""
    ACK = 6
    """All frames up to `seq` were processed."""
    ERROR = 7
    """A frame was not delivered: `seq` names it, `src` was its destination, `offset` is an `ErrorCode`."""
    ROUTE = 8
    """To the router: a direct socket to `offset` is wanted. From the router: here it is, or there is none."""
    HELLO = 9
    """To the router, first frame of a TCP connection: `key` is the token of the join."""
    WELCOME = 10
    """From the router: the endpoint's id is `dst`, the window of credits is `value`."""


DATA_KINDS = (Kind.UPDATE, Kind.PARTIAL, Kind.RELEASE, Kind.REQ)
"""The kinds that consume credits. A tuple: the hash of an enumeration's member is computed in Python."""
_KINDS: dict[int, Kind] = {int(kind): kind for kind in Kind}


class ErrorCode(IntEnum):
    """Why a frame was not delivered."""

    UNKNOWN = 1
    """No endpoint has the destination's id: it never existed, or it closed."""
    FORBIDDEN = 2
    """The route filter does not allow the source to send to the destination."""
    FORGED = 3
    """The frame's source is not the endpoint that sent it."""
    FULL = 4
    """A bounded queue on the way is full: the sender exceeded its credits, or the destination does not read."""
    STALE = 5
    """The frame's epoch is older than the destination's."""
    DUPLICATE = 6
    """The destination has received a frame with this sequence number before."""


class Frame(NamedTuple):
    """One frame. Ids, `seq`, `epoch` and `value` are u32, `offset` and `length` (bytes) are u64, `key` has 16 bytes.

    A tuple, because making a frozen dataclass takes 1.5 us more, which is a third of a round trip between processes.
    """

    kind: Kind
    dst: int
    src: int = ROUTER
    seq: int = 0
    key: bytes = NO_KEY
    offset: int = 0
    length: int = 0
    epoch: int = 0
    value: int = 0

    @property
    def weight(self) -> float:
        """`value` read as the bits of a float32."""
        weight: float = _FLOAT.unpack(_BITS.pack(self.value))[0]
        return weight

    def encode(self) -> bytes:
        """Return the 64 bytes.

        Raises:
            InvalidFrame: a field is out of range; the message names it.
        """
        kind, dst, src, seq, key, offset, length, epoch, value = self
        if len(key) != len(NO_KEY):
            raise InvalidFrame(f"frame field key has {len(key)} bytes instead of {len(NO_KEY)}")
        try:
            body = _FIELDS.pack(dst, src, VERSION, kind, seq, key, offset, length, epoch, value, 0)
        except struct.error:
            raise InvalidFrame(f"frame field {self._field_out_of_range()} is out of range") from None
        return body + _CRC.pack(zlib.crc32(body))

    def _field_out_of_range(self) -> str:
        small = {name: getattr(self, name) for name in ("dst", "src", "seq", "epoch", "value")}
        outside = [name for name, value in small.items() if not 0 <= value < _U32]
        return (outside or [name for name in ("offset", "length") if not 0 <= getattr(self, name) < _U64])[0]


def weight_bits(weight: float) -> int:
    """Return the `value` of a frame with this weight, rounded to float32.

    Raises:
        InvalidFrame: the weight is too large for float32.
    """
    try:
        bits: int = _BITS.unpack(_FLOAT.pack(weight))[0]
    except OverflowError:
        raise InvalidFrame(f"frame field weight is out of range: {weight}") from None
    return bits


def decode(data: bytes | bytearray | memoryview) -> Frame:
    """Return the frame in exactly 64 bytes.

    Raises:
        InvalidFrame: wrong length, checksum, version, kind or reserved bytes; the message names which.
    """
    if len(data) != FRAME_BYTES:
        raise InvalidFrame(f"a frame has {FRAME_BYTES} bytes, not {len(data)}")
    dst, src, version, kind, seq, key, offset, length, epoch, value, zero = _FIELDS.unpack_from(data)
    (crc,) = _CRC.unpack_from(data, _FIELDS.size)
    computed = zlib.crc32(data[: _FIELDS.size])
    if crc != computed:
        raise InvalidFrame(f"frame field crc is {crc:#010x}, computed {computed:#010x}: the frame is damaged")
    if version != VERSION:
        raise InvalidFrame(
            f"frame field version is {version}, this side has {VERSION}",
            hint="Upgrade the older one of agent and endpoint",
        )
    if kind not in _KINDS:
        raise InvalidFrame(f"frame field kind is {kind}, which version {VERSION} does not have")
    if zero:
        raise InvalidFrame(f"the reserved bytes of the frame are {zero:#x} instead of zero")
    return Frame(_KINDS[kind], dst, src, seq, key, offset, length, epoch, value)


class FrameBuffer:
    """Cuts a byte stream into frames: one read may return several frames, or a part of one."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def partial_bytes(self) -> int:
        """Bytes of an incomplete frame, below 64."""
        return len(self._rest)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that `data` completes.

        Raises:
            InvalidFrame: see `decode`. The stream has no marker to resume at, so it is unusable afterwards.
        """
        if self._rest:
            data = self._rest + data
        whole = len(data) - len(data) % FRAME_BYTES
        self._rest = data[whole:]
        for start in range(0, whole, FRAME_BYTES):
            yield decode(data[start : start + FRAME_BYTES])
