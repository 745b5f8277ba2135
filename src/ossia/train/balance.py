"""What keeps the experts of a model busy during training, and the numbers that say whether they
are.

A `Balancer` watches the router logits of every part of a step. It returns the auxiliary losses,
counts what went where, and after the step moves the selection biases. It knows the routers and
capacities of the model, no batches and no optimizer. Parts of a step may run in threads, one after
the other, or in the processes of torch.distributed; "global" statistics are those of all threads
and processes, and of what has been accumulated so far.

T tokens of a part, L layers with experts, E experts, k chosen per token.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ossia.errors import TrainingError
from ossia.model import Transformer
from ossia.model.moe import Moe, Router, expert_capacity
from ossia.train.losses import assignments, load_balance, router_z, sequence_load_balance
from ossia.train.settings import Balance

FADE_FROM, FADE_TO = 0.7, 0.9  # shares of a run between which the selection biases go to 0
PATIENCE = 1800.0  # seconds that a part waits for the others of its step


@dataclass(frozen=True)
class _Seen:
    """Sums over tokens, of a part or of several. All without gradients."""

    counts_LE: Tensor  # int64: assignments, dropped ones included
    dropped_L: Tensor  # int64: assignments beyond the capacity
    probability_LE: Tensor  # float64: sums of the router's probabilities
    z_L: Tensor  # float64: sums of squared log-sum-exps
    tokens: Tensor  # int64 []

    def __add__(self, other: _Seen) -> _Seen:
        return _Seen(*(a + b for a, b in zip(self._tensors(), other._tensors(), strict=True)))

    def of_all_processes(self) -> _Seen:
        return _Seen(*(_summed(t) for t in self._tensors()))

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.counts_LE, self.dropped_L, self.probability_LE, self.z_L, self.tokens


class Balancer:
    """Balances the experts of `model` over a run of `steps` steps.

    A step is: `begin`, one `loss` for each part, `end`. Parts that run side by side are announced
    by one `begin`; where a step accumulates, `begin` is called again, with the same step, for the
    parts that come next. `load` then holds the shares of assignments in the last step, one row for
    each layer that has a router.

    In "bias" mode the selection biases are 0 from FADE_TO of the run on. Simply taken away, they
    would leave the experts as uneven as without them. So what a bias loses on its way to 0 the
    router's own bias gets, which the format has: who is chosen stays the same, and the weights,
    which now feel it too, have the rest of the run to follow. Both this fading and its shares are
    our choice. Where the router is frozen, the biases do fade away.
    """

    def __init__(self, model: Transformer, balance: Balance, steps: int) -> None:
        self.balance, self.steps = balance, steps
        self.load: tuple[tuple[float, ...], ...] = ()
        self.handed_over: list[
            tuple[Tensor, Tensor]
        ] = []  # in the last step: (a router's bias, what was added to it)
        moes = [m for m in model.modules() if isinstance(m, Moe)]
        self._routers: dict[int, Router] = {m.layer: m.router for m in moes if m.router is not None}
        for moe in moes:
            moe.capacity = balance.capacity
        for router in self._routers.values():
            router.selection_bias = None
            if balance.mode == "bias":
                router.selection_bias = torch.zeros(
                    router.weight.shape[0], device=router.weight.device
                )
        self._step: int | None = None
        self._earlier: list[
            _Seen
        ] = []  # parts of this step that were announced by an earlier `begin`
        self._parts: dict[int, _Seen] = {}
        self._barrier = threading.Barrier(1)
        self._global_LE = torch.zeros(0)

    def begin(self, parts: int, step: int) -> None:
        """`parts` parts of step `step` (from 0) come next, side by side: with "global" statistics
        each of them waits in `loss` until all have come that far.
        """
        self._earlier = self._seen() if step == self._step else []
        self._step, self._parts = step, {}
        self._barrier = threading.Barrier(parts, action=self._count_globally, timeout=PATIENCE)

    def loss(
        self,
        part: int,
        router_logits: Mapping[int, Tensor],
        lengths: Sequence[int],
        of_tokens: float,
    ) -> Tensor:
        """This part's share of the auxiliary losses of the step, averaged over layers: to be added
        to its loss.

        `router_logits` are [T, E] by layer, `lengths` the tokens of each document, `of_tokens` the
        share of the step's tokens that are in this part. Raises `TrainingError` if another part of
        the step never came.
        """
        assert router_logits.keys() == self._routers.keys(), (
            sorted(router_logits),
            sorted(self._routers),
        )
        if not router_logits:
            return torch.zeros(())
        layers = sorted(router_logits.items())
        self._parts[part] = _see(layers, self._routers, self.balance.capacity)
        b, losses = self.balance, []
        if b.mode == "aux" and b.statistics == "global":
            self._meet()
        if not len(layers[0][1]):  # a process that has nothing to do in this round
            return torch.zeros((), device=layers[0][1].device)
        for n, (layer, logits_TE) in enumerate(layers):
            if b.mode == "aux":
                losses.append(
                    b.aux * self._load_balance(n, logits_TE, self._routers[layer].top_k, lengths)
                )
            losses.append(b.router_z * router_z(logits_TE))
        return of_tokens / len(layers) * torch.stack(losses).sum()

    def abort(self) -> None:
        """A part has failed: those that wait for it in `loss` raise `TrainingError` now rather than
        much later.
        """
        self._barrier.abort()

    @torch.no_grad()
    def end(self) -> dict[str, float]:
        """Move the selection biases by what the step has seen, and say how balanced it was, layers
        averaged:

        balance        the Switch loss over the whole step, 1.0 at best
        router_z       the mean squared log-sum-exp of the logits
        max_violation  (load of the busiest expert - mean load) / mean load (arXiv 2408.15664)
        entropy        of the loads, over ln E: 1.0 at best
        dead           experts without a single token, in all layers
        dropped        share of the assignments that were beyond the capacity
        """
        step, parts = self._step, self._seen()
        self._step, self._parts, self._earlier = None, {}, []
        if not self._routers:
            return {}
        assert step is not None and parts, "`end` without a `begin`, or without a `loss` in between"
        seen = parts[0]
        for other in parts[1:]:
            seen = seen + other
        seen = seen.of_all_processes()
        self._move_biases(seen.counts_LE, step)
        share_LE = seen.counts_LE.double() / seen.counts_LE.sum(1, keepdim=True)
        self.load = tuple(tuple(row) for row in share_LE.tolist())
        return _metrics(seen, share_LE)

    def state_dict(self) -> dict[str, Any]:
        """The selection biases, by layer; not copied."""
        return {"biases": {layer: bias.cpu() for layer, bias in self._biases()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises `TrainingError` if the state is of a model or a mode with other biases."""
        biases, mine = state["biases"], dict(self._biases())
        if {n: b.shape for n, b in biases.items()} != {n: b.shape for n, b in mine.items()}:
            raise TrainingError(
                f"the state has selection biases of layers {sorted(biases)}, this run needs them for {sorted(mine)}, "
                f"with one value an expert; it was saved by a run with another balance.mode or another model"
            )
        for layer, bias in mine.items():
            bias.copy_(biases[layer])

    def _biases(self) -> Iterator[tuple[int, Tensor]]:
        for layer, router in sorted(self._routers.items()):
            if router.selection_bias is not None:
                yield layer, router.selection_bias

    def _seen(self) -> list[_Seen]:
        """Of the step so far, in the order of the parts."""
        return self._earlier + [seen for _, seen in sorted(self._parts.items())]

    def _load_balance(
        self, n: int, logits_TE: Tensor, top_k: int, lengths: Sequence[int]
    ) -> Tensor:
        match self.balance.statistics:
            case "micro":
                return load_balance(logits_TE, top_k)
            case "sequence":
                return sequence_load_balance(logits_TE, top_k, lengths)
            case "global":
                return load_balance(logits_TE, top_k, self._global_LE[n])

    def _meet(self) -> None:
        """Wait until all parts have been counted; the last to come adds the counts up."""
        try:
            self._barrier.wait()
        except threading.BrokenBarrierError as error:
            raise TrainingError(
                f"a part of the step failed, or did not come within {PATIENCE:.0f} s; the other parts wait for its "
                "expert counts"
            ) from error

    def _count_globally(self) -> None:
        counts = [seen.counts_LE for seen in self._seen()]
        self._global_LE = _summed(torch.stack(counts).sum(0))

    def _move_biases(self, counts_LE: Tensor, step: int) -> None:
        """b += rate * sign(mean load - load); then, as much as `_fade` shrinks in this step, b goes
        over into the router's own bias.
        """
        now, before = _fade(step + 1, self.steps), _fade(step, self.steps)
        self.handed_over = []
        for (layer, bias_E), counts_E in zip(self._biases(), counts_LE, strict=False):
            away_E = counts_E.double().mean() - counts_E
            bias_E.add_(self.balance.bias_rate * now * away_E.sign())
            if now < before:
                kept_E = bias_E * (now / before)
                own = self._routers[layer].bias
                if own.requires_grad:
                    change = _part_of(bias_E - kept_E, own)
                    own.add_(change)
                    self.handed_over.append((own, change))
                bias_E.copy_(kept_E)


def _part_of(change: Tensor, parameter: Tensor) -> Tensor:
    """Cut as the parameter is, where that is cut over processes."""
    if dist.is_available() and dist.is_initialized():
        from torch.distributed.tensor import (
            DTensor,
            distribute_tensor,
        )  # not for those who train in one process

        if isinstance(parameter, DTensor):
            return distribute_tensor(change, parameter.device_mesh, parameter.placements)
    return change


def _fade(done: int, steps: int) -> float:
    """1 until FADE_FROM of the steps are done, then linearly to 0 at FADE_TO."""
    return min(1.0, max(0.0, (FADE_TO * steps - done) / ((FADE_TO - FADE_FROM) * steps)))


@torch.no_grad()
def _see(
    layers: Sequence[tuple[int, Tensor]], routers: Mapping[int, Router], factor: float | None
) -> _Seen:
    counts, dropped, probability, z = [], [], [], []
    for layer, logits_TE in layers:
        tokens, experts = logits_TE.shape
        counts.append(assignments(routers[layer].choose(logits_TE), experts))
        most = (
            expert_capacity(factor, tokens, routers[layer].top_k, experts)
            if factor is not None
            else tokens
        )
        dropped.append((counts[-1] - most).clamp(min=0).sum())
        wide_TE = logits_TE.double()
        probability.append(wide_TE.softmax(-1).sum(0))
        z.append(wide_TE.logsumexp(-1).square().sum())
    n = torch.tensor(len(layers[0][1]), device=layers[0][1].device)
    return _Seen(
        torch.stack(counts), torch.stack(dropped), torch.stack(probability), torch.stack(z), n
    )


def _metrics(seen: _Seen, share_LE: Tensor) -> dict[str, float]:
    experts = share_LE.shape[1]
    entropy_L = (
        -torch.xlogy(share_LE, share_LE).sum(1) / math.log(experts)
        if experts > 1
        else torch.ones(1)
    )
    balance_L = experts * (share_LE * seen.probability_LE / seen.tokens).sum(1)
    return {
        "balance": balance_L.mean().item(),
        "router_z": (seen.z_L / seen.tokens).mean().item(),
        "max_violation": (experts * share_LE.amax(1) - 1).mean().item(),
        "entropy": entropy_L.mean().item(),
        "dead": float((share_LE == 0).sum()),
        "dropped": (seen.dropped_L.sum() / seen.counts_LE.sum()).item(),
    }


def _summed(x: Tensor) -> Tensor:
    """Over all processes, if there are any."""
    if dist.is_available() and dist.is_initialized():
        x = x.clone()
        dist.all_reduce(x)
    return x
