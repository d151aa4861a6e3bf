"""A Qwen3-MoE decoder in torch, for training: whole sequences, no cache.

Its function is that of transformers' `Qwen3MoeForCausalLM` with tied embeddings (tested), but each expert's product is
one matrix product over all tokens of a batch that chose it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from headrace_moe.train.recipe import Shape


@dataclass(frozen=True, slots=True)
class RouterLosses:
    """The losses of one layer's router."""

    balance: Tensor
    z: Tensor


class Model(nn.Module):
    """Logits of every position, and the routers' losses."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, shape.norm_epsilon)
        deep = (2 * shape.layers) ** -0.5  # GPT-2, section 2.3: matrices whose result is added to the residual
        for name, each in self.named_parameters():
            if each.dim() > 1:
                nn.init.normal_(each, std=0.02 * (deep if name.endswith(("output.weight", "down")) else 1.0))

    @override
    def forward(self, tokens: Tensor) -> tuple[Tensor, list[RouterLosses]]:
        """Return logits [batch, sequence, vocabulary], float32. tokens: [batch, sequence]."""
        hidden = self.embedding(tokens)
        cos, sin = _rotation(self.shape, tokens.shape[1], tokens.device)
        losses = []
        for layer in self.layers:
            hidden, loss = layer(hidden, cos, sin)
            losses.append(loss)
        return functional.linear(self.norm(hidden), self.embedding.weight).float(), losses

    def export_tensors(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights of this module by transformers' names, an expert's matrices apart."""
        found = {"model.embed_tokens.weight": weights["embedding.weight"], "model.norm.weight": weights["norm.weight"]}
        for index in range(self.shape.layers):
            of, to = f"layers.{index}.", f"model.layers.{index}."
            found |= {f"{to}{theirs}.weight": weights[f"{of}{ours}.weight"] for ours, theirs in _NAMES.items()}
            gate_up, down = weights[f"{of}experts.gate_up"], weights[f"{of}experts.down"]
            for expert in range(self.shape.experts):
                gate, up = gate_up[expert].chunk(2)
                parts = {"gate_proj": gate, "up_proj": up, "down_proj": down[expert]}
                found |= {f"{to}mlp.experts.{expert}.{name}.weight": part for name, part in parts.items()}
        return {name: tensor.contiguous() for name, tensor in found.items()}


_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "experts_norm": "post_attention_layernorm",
    "experts.router": "mlp.gate",
}


class _Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.width, shape.norm_epsilon)
        self.attention = _Attention(shape)
        self.experts_norm = nn.RMSNorm(shape.width, shape.norm_epsilon)
        self.experts = _Experts(shape)

    @override
    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, RouterLosses]:
        hidden = hidden + self.attention(self.attention_norm(hidden), cos, sin)
        added, losses = self.experts(self.experts_norm(hidden).flatten(0, 1))
        return hidden + added.view_as(hidden), losses


class _Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.query = nn.Linear(shape.width, shape.heads * shape.head_dim, bias=False)
        self.key = nn.Linear(shape.width, shape.kv_heads * shape.head_dim, bias=False)
        self.value = nn.Linear(shape.width, shape.kv_heads * shape.head_dim, bias=False)
        self.output = nn.Linear(shape.heads * shape.head_dim, shape.width, bias=False)
        self.query_norm = nn.RMSNorm(shape.head_dim, shape.norm_epsilon)
        self.key_norm = nn.RMSNorm(shape.head_dim, shape.norm_epsilon)

    @override
    def forward(self, normed: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = normed.shape

        def heads(projected: Tensor) -> Tensor:
            return projected.view(batch, length, -1, self.shape.head_dim)

        queries = _rotated(self.query_norm(heads(self.query(normed))).transpose(1, 2), cos, sin)
        keys = _rotated(self.key_norm(heads(self.key(normed))).transpose(1, 2), cos, sin)
        values = heads(self.value(normed)).transpose(1, 2)
        group = self.shape.heads // self.shape.kv_heads
        keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
        attended = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        result: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return result


class _Experts(nn.Module):
    """Router and experts; the weights of the chosen experts are their probabilities, normalised to a sum of 1."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.router = nn.Linear(shape.width, shape.experts, bias=False)
        self.gate_up = nn.Parameter(torch.empty(shape.experts, 2 * shape.expert_width, shape.width))
        self.down = nn.Parameter(torch.empty(shape.experts, shape.width, shape.expert_width))

    @override
    def forward(self, normed: Tensor) -> tuple[Tensor, RouterLosses]:
        """Return what is added to the hidden states, [tokens, width]. normed: [tokens, width]."""
        logits = self.router(normed).float()
        probabilities = logits.softmax(-1)
        weights, chosen = probabilities.topk(self.shape.experts_used, dim=-1)
        weights = (weights / weights.sum(-1, keepdim=True)).to(normed.dtype)
        counts = torch.bincount(chosen.flatten(), minlength=self.shape.experts)
        order = chosen.flatten().argsort(stable=True)
        rows = order // self.shape.experts_used
        parts = torch.split(normed[rows], counts.tolist())
        done = [
            functional.linear(_gated(functional.linear(part, self.gate_up[expert])), self.down[expert])
            for expert, part in enumerate(parts)
        ]
        weighted = torch.cat(done) * weights.flatten()[order].unsqueeze(1)
        added = torch.zeros_like(normed).index_add(0, rows, weighted.to(normed.dtype))
        share = counts.float() / chosen.numel()
        balance = self.shape.experts * (share * probabilities.mean(0)).sum()
        return added, RouterLosses(balance, logits.logsumexp(-1).square().mean())


def _gated(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


def _rotation(shape: Shape, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines: [length, head_dim]."""
    exponents = torch.arange(0, shape.head_dim, 2, device=device).float() / shape.head_dim
    angles = torch.outer(torch.arange(length, device=device).float(), 1.0 / shape.rope_theta**exponents)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return heads [batch, heads, length, head_dim] rotated by their position."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin
