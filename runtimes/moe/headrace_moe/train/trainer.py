"""The training loop: AdamW at a constant rate after a warm-up; the result is an average of the weights.

The average takes the place of a decay of the learning rate, so the training can be stopped at any time: every
checkpoint is as good as the tokens that it has seen allow.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn import functional

from headrace_moe.train.checkpoint import MODEL, TrainingState, load_state, save_checkpoint
from headrace_moe.train.corpus import corpus_digest, read_corpus
from headrace_moe.train.model import Model
from headrace_moe.train.recipe import Recipe
from headrace_moe.train.tokens import DomainTokens, encode, held_out_batches, train_tokenizer, training_batch

log = logging.getLogger(__name__)
_HELD_OUT_SEQUENCES = 32
"""Per domain, of an evaluation."""
_CLIP = 1.0
_BETAS = (0.9, 0.95)
_LOG_STEPS = 20


class Trainer:
    """One training, of a recipe on a corpus; continues the checkpoint in `directory` if there is one.

    Args:
        stop: asked after each step whether to make a checkpoint and return.
    """

    def __init__(self, recipe: Recipe, corpus: Path, directory: Path, *, device: str, stop: Callable[[], bool]) -> None:
        self._recipe, self._directory, self._stop = recipe, directory, stop
        self._device = torch.device(device)
        documents = read_corpus(corpus, recipe.domain_bytes)
        self._digest = corpus_digest(documents)
        torch.manual_seed(recipe.seed)
        self.model = Model(recipe.shape).to(self._device)
        self.steps = 0
        self._tokenizer = self._resumed_tokenizer() or train_tokenizer(documents, recipe.shape.vocabulary)
        self._domains = encode(documents, self._tokenizer)
        self._average = {name: each.detach().clone() for name, each in self.model.named_parameters()}
        matrices = [each for each in self.model.parameters() if each.dim() > 1]
        vectors = [each for each in self.model.parameters() if each.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self._optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=_BETAS)
        if self._directory.exists():
            self._restore(load_state(self._directory, recipe))

    def run(self) -> Mapping[str, Any]:
        """Train up to the recipe's tokens or until told to stop; make checkpoints; return the last report."""
        recipe = self._recipe
        last = time.monotonic()
        while self.steps * recipe.batch * recipe.sequence < recipe.tokens and not self._stop():
            loss = self._step()
            if self.steps % _LOG_STEPS == 0:
                log.info("step %d: loss %.3f", self.steps, loss)
            if time.monotonic() - last > recipe.checkpoint_seconds:
                self.checkpoint()
                last = time.monotonic()
        return self.checkpoint()

    def checkpoint(self) -> Mapping[str, Any]:
        """Evaluate the average on held-out documents and save it; return the report."""
        report = self.report()
        log.info("step %d: held out %s", self.steps, report["held_out"])
        save_checkpoint(self._directory, self.model, self._average, self._state(), report, self._tokenizer)
        return report

    def report(self) -> dict[str, Any]:
        """Return what was trained on what, and the held-out loss of each domain: nats per token and per byte."""
        trained = {name: each.detach().clone() for name, each in self.model.named_parameters()}
        self._set(self._average)
        try:
            held_out = {each.domain: self._evaluate(each) for each in self._domains}
        finally:
            self._set(trained)
        return {
            "recipe": self._recipe.model_dump(),
            "corpus_sha256": self._digest,
            "training_tokens": {each.domain: len(each.training) for each in self._domains},
            "parameters": sum(each.numel() for each in self.model.parameters()),
            "steps": self.steps,
            "tokens": self.steps * self._recipe.batch * self._recipe.sequence,
            "held_out": held_out,
            "torch": torch.__version__,
        }

    def _step(self) -> float:
        recipe = self._recipe
        batch = training_batch(
            self._domains, seed=recipe.seed, step=self.steps, batch=recipe.batch, sequence=recipe.sequence
        ).to(self._device)
        for group in self._optimiser.param_groups:
            group["lr"] = recipe.learning_rate * min(1.0, (self.steps + 1) / recipe.warmup_steps)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            logits, routers = self.model(batch[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        balance = torch.stack([each.balance for each in routers]).mean()
        z = torch.stack([each.z for each in routers]).mean()
        self._optimiser.zero_grad()
        torch.autograd.backward(loss + recipe.balance_loss * balance + recipe.router_z_loss * z)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        self._optimiser.step()
        self.steps += 1
        keep = min(recipe.average, self.steps / (self.steps + 10))  # short at first: the start is not worth averaging
        with torch.no_grad():
            for name, each in self.model.named_parameters():
                self._average[name].lerp_(each, 1.0 - keep)
        return float(loss.detach())

    @torch.no_grad()
    def _evaluate(self, domain: DomainTokens) -> dict[str, float]:
        batches = held_out_batches(
            domain.held_out, sequence=self._recipe.sequence, batch=self._recipe.batch, most=_HELD_OUT_SEQUENCES
        )
        nats, tokens, size = 0.0, 0, 0
        for batch in batches:
            logits, _ = self.model(batch[:, :-1].to(self._device))
            targets = batch[:, 1:]
            nats += float(
                functional.cross_entropy(logits.flatten(0, 1), targets.flatten().to(self._device), reduction="sum")
            )
            tokens += targets.numel()
            size += sum(len(self._tokenizer.decode(row.tolist()).encode()) for row in targets)
        return {"nats_per_token": round(nats / tokens, 4), "nats_per_byte": round(nats / size, 4)}

    def _set(self, weights: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, each in self.model.named_parameters():
                each.copy_(weights[name])

    def _resumed_tokenizer(self) -> Tokenizer | None:
        path = self._directory / MODEL / "tokenizer.json"
        return Tokenizer.from_file(str(path)) if path.exists() else None

    def _state(self) -> TrainingState:
        tensors = {}
        for name, each in self.model.named_parameters():
            tensors[f"weight.{name}"], tensors[f"average.{name}"] = each.detach(), self._average[name]
            state = self._optimiser.state.get(each) or {}
            tensors |= {f"{key}.{name}": value for key, value in state.items() if key in _MOMENTS}
        return TrainingState(self.steps, tensors)

    def _restore(self, state: TrainingState) -> None:
        self.steps = state.steps
        self._set({name: state.tensors[f"weight.{name}"] for name, _ in self.model.named_parameters()})
        for name, each in self.model.named_parameters():
            self._average[name].copy_(state.tensors[f"average.{name}"])
            moments = {key: state.tensors[f"{key}.{name}"].to(each.device) for key in _MOMENTS}
            self._optimiser.state[each] = {"step": torch.tensor(float(state.steps)), **moments}


_MOMENTS = ("exp_avg", "exp_avg_sq")


def stop_on_signal(seconds: float | None) -> Callable[[], bool]:
    """Return what says whether SIGTERM or SIGINT has come, or the seconds are over. Called on the main thread."""
    signals: list[int] = []
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda number, _: signals.append(number))
    end = None if seconds is None else time.monotonic() + seconds
    return lambda: bool(signals) or (end is not None and time.monotonic() > end)
