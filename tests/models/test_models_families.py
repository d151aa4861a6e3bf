"""Each family computes what transformers computes on the same random weights, whichever file they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models.family_models import FAMILY_MODELS, WINDOW
from transformers import PreTrainedModel

from headrace_models.decoder import Batch, Segment
from headrace_models.model_file import ModelFile
from headrace_models.torch_decoder import TorchDecoder
from headrace_models.weights import ModelWeights

TOKENS = [(7 * i + 3) % 250 for i in range(40)]


def theirs(model: PreTrainedModel) -> torch.Tensor:
    """Return the logits of all tokens: [tokens, vocabulary]."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([TOKENS])).logits[0]
    assert logits.std() > 0.1  # far above the tolerance
    return logits


def ours(weights: ModelWeights) -> torch.Tensor:
    """Return the logits of all tokens, computed in two chunks over scattered blocks."""
    decoder = TorchDecoder(weights, threads=1, progress=lambda _: None)
    decoder.allocate_cache(6, 8)
    blocks, cut = (4, 0, 3, 1, 5), 23
    first = decoder.step(Batch(TOKENS[:cut], [Segment(blocks, 0, cut)], range(cut)))
    rest = len(TOKENS) - cut
    second = decoder.step(Batch(TOKENS[cut:], [Segment(blocks, cut, rest)], range(rest)))
    return torch.cat((torch.from_numpy(first), torch.from_numpy(second)))


@pytest.mark.parametrize("name", FAMILY_MODELS)
def test_gguf_when_computed_then_the_logits_of_transformers(tmp_path: Path, name: str) -> None:
    family = FAMILY_MODELS[name]
    model = family.make()
    file = ModelFile.open(family.write_gguf(model, tmp_path / "model.gguf"))
    torch.testing.assert_close(ours(file.weights), theirs(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("llama", ()),
        ("mistral-window", (WINDOW,) * 3),
        ("qwen2-window", (0, WINDOW, WINDOW)),
        ("gemma3", (WINDOW, 0, WINDOW)),
    ],
)
def test_windows_then_they_are_those_of_the_layers(tmp_path: Path, name: str, windows: tuple[int, ...]) -> None:
    family = FAMILY_MODELS[name]
    file = ModelFile.open(family.write_gguf(family.make(), tmp_path / "model.gguf"))
    assert file.config.windows == windows
