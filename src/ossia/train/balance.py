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

import functools
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ossia.errors import TrainingError
from ossia.model import Transformer
from ossia.model.moe import Moe, Router, expert_capacity
from ossia.train.losses import assignments, load_balance, router_z, sequence_load_balance
from ossia.train.settings import Balance

# shares of a run between which the selection biases go to 0
FADE_FROM = 0.7
FADE_TO = 0.9
PATIENCE = 1800.0  # seconds that a part waits for the others of its step


class _Seen(NamedTuple):
    """Sums over tokens, of a part or of several. All without gradients."""

    counts_LE: Tensor  # int64: assignments, dropped ones included
    dropped_L: Tensor  # int64: assignments beyond the capacity
    probability_LE: Tensor  # float64: sums of the router's probabilities
    z_L: Tensor  # float64: sums of squared log-sum-exps
    tokens: Tensor  # int64 []

    def plus(self, other: _Seen) -> _Seen:
        return _Seen(*map(torch.add, self, other))

    def of_all_processes(self) -> _Seen:
        return _Seen(*map(_summed, self))


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
        self.balance = balance
        self.steps = steps
        self._device = model.device
        self.load: tuple[tuple[float, ...], ...] = ()
        # in the last step: (a router's bias, what was added to it)
        self.handed_over: list[tuple[Tensor, Tensor]] = []
        self._routers: dict[int, Router] = {}
        for module in model.modules():
            if isinstance(module, Moe):
                module.capacity = balance.capacity
                if module.router is not None:
                    self._routers[module.layer] = module.router
        for router in self._routers.values():
            router.selection_bias = None
            if balance.mode == "bias":
                experts = len(router.weight)
                router.selection_bias = torch.zeros(experts, device=router.weight.device)
        self._step: int | None = None
        # parts of this step that were announced by an earlier `begin`
        self._earlier: list[_Seen] = []
        self._parts: dict[int, _Seen] = {}
        self._barrier = threading.Barrier(1)
        self._global_LE = torch.zeros(0)

    def begin(self, parts: int, step: int) -> None:
        """`parts` parts of step `step` (from 0) come next, side by side: with "global" statistics
        each of them waits in `loss` until all have come that far.
        """
        self._earlier = self._seen() if step == self._step else []
        self._step = step
        self._parts = {}
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
        assert router_logits.keys() == self._routers.keys(), list(router_logits)
        if not router_logits:
            return torch.zeros((), device=self._device)
        layers = sorted(router_logits.items())
        self._parts[part] = _see(layers, self._routers, self.balance.capacity)
        aux = self.balance.mode == "aux"
        if aux and self.balance.statistics == "global":
            self._meet()
        first_TE = layers[0][1]
        if not len(first_TE):  # a process that has nothing to do in this round
            return torch.zeros((), device=first_TE.device)
        losses: list[Tensor] = []
        for n, (layer, logits_TE) in enumerate(layers):
            if aux:
                top_k = self._routers[layer].top_k
                uneven = self._load_balance(n, logits_TE, top_k, lengths)
                losses.append(self.balance.aux * uneven)
            losses.append(self.balance.router_z * router_z(logits_TE))
        return of_tokens / len(layers) * torch.stack(losses).sum()

    def abort(self) -> None:
        """A part has failed: let the parts that wait for it in `loss` raise `TrainingError` now
        instead of after `PATIENCE`.
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
        step = self._step
        parts = self._seen()
        self._step = None
        self._parts = {}
        self._earlier = []
        if not self._routers:
            return {}
        assert step is not None and parts, "`end` without a `begin`, or without a `loss` in between"
        seen = functools.reduce(_Seen.plus, parts)
        seen = seen.of_all_processes()
        self._move_biases(seen.counts_LE, step)
        every_L1 = seen.counts_LE.sum(1, keepdim=True)
        share_LE = seen.counts_LE.double() / every_L1
        self.load = tuple(map(tuple, share_LE.tolist()))
        return _metrics(seen, share_LE)

    def state_dict(self) -> dict[str, Any]:
        """The selection biases, by layer; not copied."""
        return {"biases": {layer: bias.cpu() for layer, bias in self._biases()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises `TrainingError` if the state is of a model or a mode with other biases."""
        biases = state["biases"]
        mine = dict(self._biases())
        if _shapes(biases) != _shapes(mine):
            raise TrainingError(
                f"the state has selection biases of layers {sorted(biases)}, this run needs them "
                f"for {sorted(mine)}, with one value an expert; it was saved by a run with another "
                "balance.mode or another model"
            )
        for layer, bias in mine.items():
            bias.copy_(biases[layer])

    def _biases(self) -> Iterator[tuple[int, Tensor]]:
        for layer, router in sorted(self._routers.items()):
            if router.selection_bias is not None:
                yield layer, router.selection_bias

    def _seen(self) -> list[_Seen]:
        """Of the step so far, in the order of the parts."""
        return self._earlier + [self._parts[part] for part in sorted(self._parts)]

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
                f"a part of the step failed, or did not come within {PATIENCE:.0f} s; the other "
                "parts wait for its expert counts"
            ) from error

    def _count_globally(self) -> None:
        counts = [seen.counts_LE for seen in self._seen()]
        self._global_LE = _summed(torch.stack(counts).sum(0))

    def _move_biases(self, counts_LE: Tensor, step: int) -> None:
        """b += rate * sign(mean load - load); then, as much as `_fade` shrinks in this step, b goes
        over into the router's own bias.
        """
        now = _fade(step + 1, self.steps)
        before = _fade(step, self.steps)
        rate = self.balance.bias_rate * now
        self.handed_over = []
        for (layer, bias_E), counts_E in zip(self._biases(), counts_LE, strict=False):
            away_E = counts_E.double().mean() - counts_E
            bias_E.add_(rate * away_E.sign())
            if now < before:
                kept_E = bias_E * (now / before)
                self._hand_over(self._routers[layer].bias, bias_E - kept_E)
                bias_E.copy_(kept_E)

    def _hand_over(self, own_E: Tensor, change_E: Tensor) -> None:
        if own_E.requires_grad:
            change_E = _part_of(change_E, own_E)
            own_E.add_(change_E)
            self.handed_over.append((own_E, change_E))


def _shapes(biases: Mapping[int, Tensor]) -> dict[int, torch.Size]:
    return {layer: bias.shape for layer, bias in biases.items()}


def _part_of(change: Tensor, parameter: Tensor) -> Tensor:
    """Cut as the parameter is, where that is cut over processes."""
    if dist.is_available() and dist.is_initialized():
        # not for those who train in one process
        from torch.distributed.tensor import DTensor, distribute_tensor

        if isinstance(parameter, DTensor):
            return distribute_tensor(change, parameter.device_mesh, parameter.placements)
    return change


def _fade(done: int, steps: int) -> float:
    """1 until FADE_FROM of the steps are done, then linearly to 0 at FADE_TO."""
    left = FADE_TO * steps - done
    share = left / ((FADE_TO - FADE_FROM) * steps)
    return min(1.0, max(0.0, share))


@torch.no_grad()
def _see(
    layers: Sequence[tuple[int, Tensor]], routers: Mapping[int, Router], factor: float | None
) -> _Seen:
    rows = [_see_layer(logits_TE, routers[layer], factor) for layer, logits_TE in layers]
    counts, dropped, probability, z = map(torch.stack, zip(*rows, strict=True))
    first_TE = layers[0][1]
    tokens = torch.tensor(len(first_TE), device=first_TE.device)
    return _Seen(counts, dropped, probability, z, tokens)


def _see_layer(logits_TE: Tensor, router: Router, factor: float | None) -> tuple[Tensor, ...]:
    """The rows of `_Seen` for one layer."""
    tokens, experts = logits_TE.shape
    counts_E = assignments(router.choose(logits_TE), experts)
    most = tokens
    if factor is not None:
        most = expert_capacity(factor, tokens, router.top_k, experts)
    dropped = (counts_E - most).clamp(min=0).sum()
    wide_TE = logits_TE.double()
    probability_E = wide_TE.softmax(-1).sum(0)
    z = wide_TE.logsumexp(-1).square().sum()
    return counts_E, dropped, probability_E, z


def _metrics(seen: _Seen, share_LE: Tensor) -> dict[str, float]:
    experts = share_LE.shape[1]
    entropy_L = torch.ones(1)
    if experts > 1:
        entropy_L = -torch.xlogy(share_LE, share_LE).sum(1) / math.log(experts)
    weighted_LE = share_LE * seen.probability_LE / seen.tokens
    balance_L = experts * weighted_LE.sum(1)
    violation_L = experts * share_LE.amax(1) - 1
    dropped = seen.dropped_L.sum() / seen.counts_LE.sum()
    return {
        "balance": balance_L.mean().item(),
        "router_z": (seen.z_L / seen.tokens).mean().item(),
        "max_violation": violation_L.mean().item(),
        "entropy": entropy_L.mean().item(),
        "dead": float((share_LE == 0).sum()),
        "dropped": dropped.item(),
    }


def _summed(x: Tensor) -> Tensor:
    """Over all processes, if there are any."""
    if dist.is_available() and dist.is_initialized():
        x = x.clone()
        dist.all_reduce(x)
    return x
