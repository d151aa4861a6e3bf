"""Loads the precompiled object: the program of its section `sk_msg`, with the maps' descriptors filled in.

A BPF object is a relocatable ELF file. Each use of a map is a 16-byte `ld_imm64` instruction with a relocation to the
map's symbol; the loader writes the map's descriptor into its immediate and marks it as such (BPF_PSEUDO_MAP_FD).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace.bus.errors import EbpfUnavailable
from headrace_node.bpf.syscalls import BpfMap, load_sk_msg

OBJECT = Path(__file__).parent / "redirect.bpf.o"
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQ")
_MACHINE_BPF = 247
_SYMTAB, _REL = 2, 9
_R_BPF_64_64 = 1
_LD_IMM64, _PSEUDO_MAP_FD = 0x18, 1


@dataclass(frozen=True, slots=True)
class _Section:
    name: bytes
    kind: int
    link: int
    info: int
    data: bytes


def load(maps: Mapping[str, BpfMap], path: Path = OBJECT) -> int:
    """Load the program of an object file and return its descriptor; `maps` are the maps by their symbols.

    Raises:
        EbpfUnavailable: the kernel refuses the program, or the file is missing or not such an object.
    """
    try:
        sections = _sections(path.read_bytes())
        code, license_name = _link(sections, maps)
    except (OSError, struct.error, IndexError, KeyError, ValueError, StopIteration) as error:
        raise EbpfUnavailable(f"the eBPF object {path} is unusable: {error}", hint="Install headrace again") from error
    return load_sk_msg(code, license_name)


def _sections(image: bytes) -> list[_Section]:
    ident, _, machine, _, _, _, table, _, _, _, _, _, count, names_at = _HEADER.unpack_from(image)
    if not ident.startswith(b"\x7fELF\x02\x01") or machine != _MACHINE_BPF:
        raise ValueError("not a little-endian BPF object")
    heads = [_SECTION.unpack_from(image, table + i * _SECTION.size) for i in range(count)]
    names = image[heads[names_at][4] :]
    return [
        _Section(_text(names, head[0]), head[1], head[6], head[7], image[head[4] : head[4] + head[5]]) for head in heads
    ]


def _link(sections: list[_Section], maps: Mapping[str, BpfMap]) -> tuple[bytes, bytes]:
    index = next(i for i, section in enumerate(sections) if section.name == b"sk_msg")
    symbols = next(section for section in sections if section.kind == _SYMTAB)
    names = sections[symbols.link].data
    code = bytearray(sections[index].data)
    for section in sections:
        if section.kind != _REL or section.info != index:
            continue
        for offset, info in _RELOCATION.iter_unpack(section.data):
            symbol = _SYMBOL.unpack_from(symbols.data, (info >> 32) * _SYMBOL.size)
            if info & 0xFFFFFFFF != _R_BPF_64_64 or code[offset] != _LD_IMM64:
                raise ValueError(f"unknown relocation at {offset}")
            target = maps[_text(names, symbol[0]).decode()]
            code[offset + 1] = code[offset + 1] & 0x0F | _PSEUDO_MAP_FD << 4
            struct.pack_into("<i", code, offset + 4, target.fd)
    return bytes(code), next(section.data for section in sections if section.name == b"license").rstrip(b"\0")


def _text(table: bytes, start: int) -> bytes:
    return table[start : table.index(b"\0", start)]
