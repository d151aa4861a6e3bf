"""Writes the generated parts of the documentation: `make docs`. A test fails when they differ from the code."""

from __future__ import annotations

from generators.pages import write
from generators.source import CHECKOUT

from headrace.cli.documents import write_decision_index

if __name__ == "__main__":
    for path in (write_decision_index(), *write()):
        print(f"wrote {path.relative_to(CHECKOUT)}")
