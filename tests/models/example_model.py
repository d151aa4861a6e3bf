"""The example's model as a file of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from headrace.sources.store import fetch

ROOT = Path(__file__).resolve().parents[2]


def smollm2_file() -> Path:
    """Return the file, in the model directory of this machine's instances, where it is found next time."""
    manifest = yaml.safe_load((ROOT / "examples/smollm2.yaml").read_text())
    home = Path(os.environ.get("HEADRACE_HOME") or Path.home() / ".local/share/headrace")
    source = manifest["spec"]["model"]["source"]
    fetched = fetch(source["uri"], home / "models", digest=source.get("digest"), progress=lambda *_: None)
    return home / "models" / fetched.path
