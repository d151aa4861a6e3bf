"""Training: the model is that of transformers, a stopped run continues exactly, and the export is what was trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from moe_runtime.moe_training import RECIPE, write_corpus
from transformers import AutoConfig, AutoModelForCausalLM

from headrace_models.decoder import Batch, Segment
from headrace_models.model_file import ModelFile
from headrace_models.torch_decoder import TorchDecoder
from headrace_moe.main import main
from headrace_moe.train.checkpoint import MODEL, REPORT
from headrace_moe.train.corpus import read_corpus
from headrace_moe.train.errors import InvalidCorpus, InvalidRecipe
from headrace_moe.train.trainer import Trainer

TOKENS = [(7 * i + 3) % 300 for i in range(24)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    directory = tmp_path_factory.mktemp("training") / "checkpoint"
    trainer(corpus, directory).run()
    return directory


def trainer(corpus: Path, directory: Path, stop: Callable[[], bool] = lambda: False) -> Trainer:
    return Trainer(RECIPE, corpus, directory, device="cpu", stop=stop)


def test_checkpoint_when_loaded_by_transformers_then_same_logits(corpus: Path, checkpoint: Path) -> None:
    ours = trainer(corpus, checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint / MODEL)
    ours._set(ours._average)
    with torch.inference_mode():
        logits, _ = ours.model(torch.tensor([TOKENS]))
        torch.testing.assert_close(logits, model(torch.tensor([TOKENS])).logits, atol=1e-4, rtol=1e-4)


def test_training_when_continued_then_the_same_weights(corpus: Path, checkpoint: Path, tmp_path: Path) -> None:
    first = trainer(corpus, tmp_path / "run", stop=lambda: first.steps == 2)
    assert first.run()["steps"] == 2
    rest = trainer(corpus, tmp_path / "run")
    assert rest.steps == 2
    rest.run()
    whole = trainer(corpus, checkpoint)
    assert rest.steps == whole.steps == 6
    for name, each in whole._average.items():
        assert torch.equal(each, rest._average[name]), name


def test_report_when_trained_then_held_out_loss_fell(corpus: Path, checkpoint: Path, tmp_path: Path) -> None:
    before = trainer(corpus, tmp_path / "new").report()["held_out"]
    after = json.loads((checkpoint / REPORT).read_text())["held_out"]
    for domain in ("code", "verse"):
        assert after[domain]["nats_per_token"] < before[domain]["nats_per_token"]


def test_export_when_loaded_then_the_trained_model(checkpoint: Path, tmp_path: Path) -> None:
    """One file for headrace and for transformers; Q8_0 rounds the weights."""
    assert main(["export", str(checkpoint), str(tmp_path / "model.gguf")]) == 0
    config = AutoConfig.from_pretrained(checkpoint / MODEL)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", config=config)
    with torch.inference_mode():
        theirs = model(torch.tensor([TOKENS])).logits[0].numpy()
    exported = logits(tmp_path / "model.gguf")
    np.testing.assert_allclose(exported, theirs, atol=1e-4, rtol=1e-4)
    trained = logits(checkpoint / MODEL)
    assert np.abs(exported - trained).max() < 0.05 * trained.std()


def test_checkpoint_when_of_another_recipe_then_refused(corpus: Path, checkpoint: Path) -> None:
    with pytest.raises(InvalidRecipe, match="of another recipe, tiny"):
        Trainer(RECIPE.model_copy(update={"seed": 4}), corpus, checkpoint, device="cpu", stop=lambda: True)


def test_corpus_when_split_then_by_document_and_stable(corpus: Path, tmp_path: Path) -> None:
    held_out = {(each.domain, each.name) for each in read_corpus(corpus, 1 << 20) if each.held_out}
    less = read_corpus(corpus, 50_000)
    assert 0 < len(held_out) < 20
    assert len(less) < 120
    assert {(each.domain, each.name) for each in less if each.held_out} <= held_out
    with pytest.raises(InvalidCorpus, match="no folder per domain"):
        read_corpus(tmp_path, 1)


def logits(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    decoder = TorchDecoder(ModelFile.open(path).weights, threads=1, progress=lambda _: None)
    decoder.allocate_cache(2, 16)
    return decoder.step(Batch(TOKENS, [Segment((0, 1), 0, len(TOKENS))], range(len(TOKENS))))
