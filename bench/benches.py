"""Runs all benches one after another and prints all bars at the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BENCHES = ("local.py", "faults.py", "gateway.py")


def main() -> int:
    """Run the benches; return 1 if one failed to run. A missed bar is a result, not a failure."""
    bars: list[str] = []
    failed = False
    for bench in BENCHES:
        print(f"== {bench}", flush=True)
        with subprocess.Popen([sys.executable, HERE / bench], stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            for line in running.stdout:
                print(line, end="", flush=True)
                bars += [line] if line.startswith("bar ") else []
        failed |= running.returncode != 0
    print("== bars")
    print("".join(bars), end="")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
