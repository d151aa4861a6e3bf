"""Text to train on: domains of documents, split by document.

A corpus is a directory with one folder per domain, and text files in it, each of which is a document. A document is
held out if the digest of its name says so, so that the split is the same whatever else is in the corpus.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from headrace_moe.train.errors import InvalidCorpus

MAX_DOCUMENT_BYTES = 4 << 20
_HELD_OUT_OF = 20
"""One document in so many is held out."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text and where it is from."""

    domain: str
    name: str
    text: str

    @property
    def held_out(self) -> bool:
        """Whether it is for evaluation only."""
        digest = hashlib.sha256(f"{self.domain}/{self.name}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % _HELD_OUT_OF == 0


def read_corpus(directory: Path, most_bytes: int) -> list[Document]:
    """Return the documents in the order of their names, at most `most_bytes` of text per domain.

    Raises InvalidCorpus if a domain has no training or no held-out document.
    """
    domains = sorted(path for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []
    if not domains:
        raise InvalidCorpus(f"{directory} has no folder per domain", hint="`headrace-moe corpus` makes one")
    documents = [document for domain in domains for document in _domain(domain, most_bytes)]
    for domain in domains:
        for held_out in (False, True):
            if not any(each.domain == domain.name and each.held_out is held_out for each in documents):
                raise InvalidCorpus(
                    f"the domain {domain.name} has no {'held-out' if held_out else 'training'} document",
                    hint="Add documents: one in twenty is held out, by its name",
                )
    return documents


def corpus_digest(documents: list[Document]) -> str:
    """Return the SHA-256 of all documents with their names."""
    digest = hashlib.sha256()
    for each in documents:
        digest.update(f"{each.domain}/{each.name}/{len(each.text)}\n{each.text}".encode())
    return digest.hexdigest()


def _domain(folder: Path, most_bytes: int) -> list[Document]:
    """Return documents in the order of the digests of their names, so that a limit takes a sample."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size <= MAX_DOCUMENT_BYTES]
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    found, total = [], 0
    for name in sorted(names, key=lambda each: hashlib.sha256(each.encode()).digest()):
        text = names[name].read_text(encoding="utf-8", errors="replace")
        total += len(text.encode())
        if total > most_bytes:
            break
        found.append(Document(folder.name, name, text))
    return found
