"""Measures the LLM engine beside llama.cpp, vLLM and transformers, in parts; ends with all bars.

`--exclusive` lets the timed processes go before the other jobs of the machine. The peers and clients are installed the
first time (`bench/engines/venvs.py`).
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from bars import environment
from engines import checkpoint
from engines.venvs import PEERS
from llm_parts import cold_starts, contention, decoder, memory, parity, quality, scheduling, served, users
from llm_parts.setting import Setting, before_others
from models.example_model import smollm2_file

PARTS = {
    "decoder": decoder.measure,
    "scheduling": scheduling.measure,
    "contention": contention.measure,
    "memory": memory.measure,
    "served": served.measure,
    "users": users.measure,
    "parity": parity.measure,
    "quality": quality.measure,
    "cold-starts": cold_starts.measure,
}


def main() -> None:
    """Measure, and print the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exclusive", action="store_true", help="go before other jobs (needs root)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    options = parser.parse_args()
    environment()
    file = smollm2_file()
    directory = checkpoint.export(file, PEERS / "smollm2")
    setting = Setting(file, directory, options.repeats, options.exclusive)
    with before_others() if options.exclusive else nullcontext():
        bars = [bar for part in options.parts for bar in PARTS[part](setting)]
    for each in bars:
        each.print()


if __name__ == "__main__":
    main()
