"""A small model with its batches for the tests of the balancer, and what two processes of them
do.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import fully_shard

from ossia.batch import Batch
from ossia.config import ModelConfig
from ossia.model import Transformer
from ossia.model.moe import Router
from ossia.train.balance import Balancer
from ossia.train.settings import Balance

TINY = replace(
    ModelConfig.preset("nano"), num_hidden_layers=2, layer_types=(), hidden_size=32,
    intermediate_size=32,
    num_experts=4, num_attention_heads=2, num_key_value_heads=1, head_dim=16, vocab_size=64,
    sliding_window=8,
    rope_ntk_beta=4.0,
)  # fmt: skip
EXPERTS, TOP_K = TINY.num_experts, TINY.experts_per_token


def tiny(config: ModelConfig = TINY, seed: int = 0) -> Transformer:
    model = Transformer(config)
    model.init_weights(seed)
    for name, p in model.named_parameters():
        if ".router.weight" in name:
            p.data.mul_(10)  # so that tokens differ in what they choose
    return model


def routers(model: Transformer) -> list[Router]:
    return [m for m in model.modules() if isinstance(m, Router)]


def documents(*lengths: int, seed: int = 0) -> tuple[Tensor, list[int]]:
    return torch.randint(
        0, 64, (sum(lengths),), generator=torch.Generator().manual_seed(seed)
    ), list(lengths)


def logits_of(model: Transformer, tokens: Tensor, lengths: list[int]) -> dict[int, Tensor]:
    seen: dict[int, Tensor] = {}
    model.hidden(tokens, Batch.packed(lengths, router_logits=seen))
    return seen


def cut(tokens: Tensor, lengths: list[int], parts: int) -> list[tuple[Tensor, list[int]]]:
    """Between documents, into `parts` pieces."""
    bounds = [len(lengths) * n // parts for n in range(parts + 1)]
    starts = [sum(lengths[:b]) for b in bounds]
    return [
        (tokens[starts[n] : starts[n + 1]], lengths[bounds[n] : bounds[n + 1]])
        for n in range(parts)
    ]


def gradient(losses: list[Tensor], model: Transformer) -> Tensor:
    weights = [r.weight for r in routers(model)]
    return torch.cat([g.flatten() for g in torch.autograd.grad(sum(losses), weights)])  # type: ignore[arg-type]


def in_two_processes(out: Path) -> None:
    """What this process of two finds, to `out/found-<rank>.pt`: for each mode the loss of its part,
    gradients, metrics, loads and state; then the biases of routers that are cut in two.
    """
    rank = dist.get_rank()
    parts = cut(*documents(9, 30, 4, 17, 25, 11), 2)
    of_tokens = len(parts[rank][0]) / sum(len(t) for t, _ in parts)
    found: list[object] = []
    for mode in ("aux", "bias"):
        model = tiny()
        balancer = Balancer(model, Balance(mode, "global"), steps=10)  # type: ignore[arg-type]
        balancer.begin(1, 0)
        loss = balancer.loss(0, logits_of(model, *parts[rank]), parts[rank][1], of_tokens)
        balancer.begin(1, 0)  # a round in which one process has nothing to do
        seen = {n: x[: len(x) * rank] for n, x in logits_of(model, *documents(8)).items()}
        balancer.loss(0, seen, [8] * rank, 0.1 * rank)
        steps = gradient([loss], model)
        state = balancer.end(), balancer.load, deepcopy(balancer.state_dict())
        found.append((loss.item(), steps, *state))
    logits = logits_of(model, *parts[rank])
    for router in routers(model):
        fully_shard(router)
    for number in range(1, 10):
        balancer.begin(1, number)
        balancer.loss(0, logits, parts[rank][1], of_tokens)
        balancer.end()
    found.append([router.bias.full_tensor().detach() for router in routers(model)])
    torch.save(found, out / f"found-{rank}.pt")
