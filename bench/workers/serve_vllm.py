"""vLLM's own command: `serve_vllm.py serve DIRECTORY ...`."""

from __future__ import annotations

import sys

import vllm_name  # noqa: F401 - before vLLM; its engine's process imports this file too

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    sys.exit(main())
