"""The 64 bytes of a frame."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.errors import InvalidFrame
from headrace.bus.frames import FRAME_BYTES, Frame, FrameBuffer, Kind, decode, weight_bits

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
FRAMES = st.builds(
    Frame,
    kind=st.sampled_from(Kind),
    dst=U32,
    src=U32,
    seq=U32,
    key=st.binary(min_size=16, max_size=16),
    offset=U64,
    length=U64,
    epoch=U32,
    value=U32,
)


def with_bytes(at: int, content: bytes) -> bytes:
    """A valid checksum over changed bytes."""
    data = bytearray(Frame(Kind.UPDATE, 7, 8).encode())
    data[at : at + len(content)] = content
    data[60:] = zlib.crc32(data[:60]).to_bytes(4, "little")
    return bytes(data)


@given(FRAMES)
def test_frame_when_encoded_then_decodes_to_itself(frame: Frame) -> None:
    data = frame.encode()
    assert len(data) == FRAME_BYTES
    assert int.from_bytes(data[:4], "little") == frame.dst
    assert decode(data) == frame


@given(st.lists(FRAMES, max_size=5), st.data())
def test_stream_when_cut_anywhere_then_same_frames(frames: list[Frame], data: st.DataObject) -> None:
    """Five sends may arrive as one read of 320 bytes, and one send as several reads."""
    stream, buffer, arrived = b"".join(frame.encode() for frame in frames), FrameBuffer(), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        arrived += list(buffer.feed(stream[:cut]))
        stream = stream[cut:]
    assert arrived == frames
    assert buffer.partial_bytes == 0


@given(st.integers(0, 8 * FRAME_BYTES - 1))
def test_frame_when_any_bit_flips_then_crc_is_named(bit: int) -> None:
    data = bytearray(Frame(Kind.REQ, 1, 2, 3, bytes(range(16)), 4, 5, 6, 7).encode())
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidFrame, match="crc"):
        decode(data)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (with_bytes(8, b"\x02\x00"), "version is 2"),
        (with_bytes(10, b"\x63\x00"), "kind is 99"),
        (with_bytes(10, b"\x00\x00"), "kind is 0"),
        (with_bytes(56, b"\x01\x00\x00\x00"), "reserved bytes"),
        (b"", "not 0"),
        (bytes(63), "not 63"),
    ],
)
def test_frame_when_malformed_then_error_names_the_field(data: bytes, named: str) -> None:
    with pytest.raises(InvalidFrame, match=named):
        decode(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [("dst", 2**32), ("src", -1), ("seq", 2**32), ("key", b"short"), ("offset", 2**64), ("length", -1)],
)
def test_field_when_out_of_range_then_error_names_it(field: str, value: object) -> None:
    with pytest.raises(InvalidFrame, match=field):
        Frame(Kind.UPDATE, 1)._replace(**{field: value}).encode()  # type: ignore[arg-type] # on purpose


def test_weight_when_too_large_for_float32_then_error() -> None:
    assert Frame(Kind.UPDATE, 1, value=weight_bits(-2.5)).weight == -2.5
    with pytest.raises(InvalidFrame, match="weight"):
        weight_bits(1e300)
