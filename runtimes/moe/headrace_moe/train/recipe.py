"""A recipe: everything that determines a trained model, apart from the corpus and the number of steps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headrace_moe.train.errors import InvalidRecipe

Count = Annotated[int, Field(ge=1, le=1 << 30)]
MAX_RECIPE_BYTES = 1 << 16


class Shape(BaseModel):
    """The shape of the model, a Qwen3-MoE: transformers and llama.cpp run it, and a GGUF file of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabulary: Annotated[int, Field(ge=300, le=65_535)]
    """Tokens, those of the 256 bytes and the end of a text included."""
    layers: Count
    width: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    experts: Count
    experts_used: Count
    """Experts per token and layer."""
    expert_width: Count
    """Width of the feed-forward block of an expert; a multiple of 32, so that it can be quantised."""
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-6


class Recipe(BaseModel):
    """A model and how it is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    seed: int = 1
    shape: Shape
    domain_bytes: Count
    """Most text per domain, bytes: the domains have equal weight, so a long one must not be a large one."""
    tokens: Count
    """Tokens to train on; a run that is stopped before has a usable checkpoint."""
    sequence: Count
    """Tokens of a training sequence."""
    batch: Count
    """Sequences of a step."""
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_steps: Count
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    balance_loss: Annotated[float, Field(ge=0)] = 0.01
    """Weight of the loss that balances the experts (Switch Transformer, section 2.2)."""
    router_z_loss: Annotated[float, Field(ge=0)] = 0.001
    """Weight of the loss that keeps the router's logits small (ST-MoE, section 2.2)."""
    average: Annotated[float, Field(ge=0, lt=1)]
    """Decay per step of the average of the weights, which is the result."""
    checkpoint_seconds: Count = 600


def read_recipe(path: Path) -> Recipe:
    """Read a YAML file. Raises InvalidRecipe, naming the field."""
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise InvalidRecipe(f"{path.name} has more than {MAX_RECIPE_BYTES} bytes")
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text()))
    except (ValidationError, yaml.YAMLError) as error:
        raise InvalidRecipe(f"{path.name}: {error}", hint="recipes/ has examples") from error
