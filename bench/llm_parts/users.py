"""32 users through the gateway of `headrace up`: every request must succeed.

The replica runs in a session of its own, so it does not go before other jobs: its rate is printed, but is no bar.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml
from bars import Bar
from llm_parts.load import run_guidellm
from llm_parts.servers import free_port
from llm_parts.setting import Setting

ROOT = Path(__file__).resolve().parents[2]
USERS = 32
REQUESTS = 96
START_SECONDS = 60.0


def measure(setting: Setting) -> list[Bar]:
    """Return the bar of failed requests."""
    manifest = yaml.safe_load((ROOT / "examples/smollm2.yaml").read_text())
    model = manifest["spec"]["model"]["name"]
    with tempfile.TemporaryDirectory() as name:
        home, port = Path(name), free_port()
        # The models that this machine has fetched are linked, not fetched again.
        shutil.copytree(setting.file.parents[1], home / "models", copy_function=os.link)
        command = [Path(sys.executable).with_name("headrace"), "up", "-f", ROOT / "examples/smollm2.yaml"]
        process = subprocess.Popen(
            [str(part) for part in [*command, "--port", str(port)]],
            env={**os.environ, "HEADRACE_HOME": str(home)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_listed(f"http://127.0.0.1:{port}", model)
            outcome = run_guidellm(
                setting, f"http://127.0.0.1:{port}", users=USERS, requests=REQUESTS, seed=0, model=model
            )
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
    print(
        f"{USERS} users through the gateway: {outcome.successful} answers, {outcome.failed} failed,"
        f" {outcome.tokens_per_second:.0f} tok/s, first token {outcome.first_token_milliseconds:.0f} ms",
        flush=True,
    )
    return [Bar(f"users-{USERS}-failed", outcome.failed + (outcome.successful == 0), 0, "")]


def _wait_listed(url: str, model: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/v1/models", timeout=5) as answer:
                if any(each["id"] == model for each in json.load(answer)["data"]):
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.1)
    raise RuntimeError("`headrace up` does not list the model")
