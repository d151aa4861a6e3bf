"""Look-up of programs that are installed with headrace: first next to this Python, then on PATH."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from headrace.errors import CannotStart


def find_program(name: str, *, hint: str) -> str:
    """Return the program's path. Raises CannotStart with the hint if the program is not installed."""
    own = (str(Path(sys.executable).parent), sysconfig.get_path("scripts"))
    found = shutil.which(name, path=os.pathsep.join((*own, os.environ.get("PATH", os.defpath))))
    if found is None:
        raise CannotStart(f"{name} is not installed on this machine", hint=hint)
    return found
