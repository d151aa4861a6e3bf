"""A tiny recipe and corpus."""

from __future__ import annotations

from pathlib import Path

from headrace_moe.train.recipe import Recipe, Shape

RECIPE = Recipe(
    name="tiny",
    seed=3,
    shape=Shape(
        vocabulary=300,
        layers=2,
        width=64,
        heads=4,
        kv_heads=2,
        head_dim=16,
        experts=4,
        experts_used=2,
        expert_width=32,
    ),
    domain_bytes=100_000,
    tokens=6 * 4 * 32,
    sequence=32,
    batch=4,
    learning_rate=0.01,
    warmup_steps=2,
    average=0.5,
)
LINES = {"code": "def step_{0}(x):\n    return x + {0}\n\n", "verse": "The {0}th night was dark, and no star shone.\n"}


def write_corpus(directory: Path) -> Path:
    """Write two domains of 60 documents, of which about one in twenty is held out."""
    for domain, line in LINES.items():
        (directory / domain).mkdir(parents=True)
        for index in range(60):
            (directory / domain / f"{index}.txt").write_text("".join(line.format(index + i) for i in range(20)))
    return directory
