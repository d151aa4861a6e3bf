"""Resident memory of the serving process after load, against its weights and its KV cache."""

from __future__ import annotations

import json
import random
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bars import Bar
from llm_parts.servers import CONCURRENT, MODEL_LEN, NAME, Server, headrace_server
from llm_parts.setting import THREADS, Setting

from headrace_llm.loading import DType, load_decoder
from headrace_models.model_file import ModelFile

MEGA = 1e6
PROCESS_BYTES = 200 * MEGA
"""Allowed for everything but weights and KV cache."""
WEIGHTS = 1.3
"""Allowed times the weights."""


def measure(setting: Setting) -> list[Bar]:
    """Return the bar, as a share of what is allowed."""
    decoder = load_decoder(ModelFile.open(setting.file), dtype=DType.AUTO, threads=1, progress=lambda *_: None)
    weights, cache = decoder.weight_bytes, CONCURRENT * MODEL_LEN * decoder.kv_bytes_per_token
    decoder.close()
    with headrace_server(setting.file) as server:
        loaded = _status(server, "VmRSS")
        with ThreadPoolExecutor(CONCURRENT) as pool:
            list(pool.map(lambda seed: _fill(server, seed), range(CONCURRENT)))
        resident, peak = _status(server, "VmRSS"), _status(server, "VmHWM")
    allowed = WEIGHTS * weights + cache + PROCESS_BYTES
    print(
        f"memory: {loaded / MEGA:.0f} MB after loading, {resident / MEGA:.0f} MB with a full cache, at most"
        f" {peak / MEGA:.0f} MB; weights {weights / MEGA:.0f} MB, KV cache {cache / MEGA:.0f} MB,"
        f" allowed {allowed / MEGA:.0f} MB ({THREADS} threads)",
        flush=True,
    )
    # The cache is resident as far as it was written; the bar is stricter than with an unused cache.
    return [Bar("memory-of-allowed", resident / allowed, 1.0, "x")]


def _fill(server: Server, seed: int) -> None:
    """Send a request as long as the model takes."""
    prompt = random.Random(seed).choices(range(1000, 40000), k=MODEL_LEN - 2)
    body = {"model": NAME, "prompt": prompt, "max_tokens": 2, "ignore_eos": True}
    request = urllib.request.Request(
        f"{server.url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        answer.read()


def _status(server: Server, key: str) -> int:
    """Return a size from the kernel's status of the process, bytes."""
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
