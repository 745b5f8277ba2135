"""The experts of a layer spread over processes: every token goes to the processes of its experts,
and its outputs come back.

Each process of a group holds E / n experts and brings tokens of its own. Assignments are sorted by
expert, so that those for one process are one piece; the pieces are exchanged, computed, and
exchanged back. Bound: 4*T*k*D values sent and as many received, forward and backward, besides the
FLOPs of the experts.

T tokens of this process, D hidden, E experts of the layer, k chosen per token, n assignments that
arrived here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ossia.kernels.experts_training import experts_training

# (rows [n, D], which of this process's experts each is for, int64 [n]) -> outputs [n, D]
Compute = Callable[[Tensor, Tensor], Tensor]


class _Exchange(torch.autograd.Function):
    """Piece i of the rows goes to process i of the group; the gradients take the way back."""

    @staticmethod
    def forward(
        ctx: Any, x_nD: Tensor, send: list[int], receive: list[int], group: dist.ProcessGroup
    ) -> Tensor:
        ctx.send = send
        ctx.receive = receive
        ctx.group = group
        return _exchanged(x_nD, send, receive, group)

    @staticmethod
    def backward(ctx: Any, grad_nD: Tensor) -> tuple[Tensor | None, ...]:
        return _exchanged(grad_nD, ctx.receive, ctx.send, ctx.group), None, None, None


def _exchanged(x: Tensor, send: list[int], receive: list[int], group: dist.ProcessGroup) -> Tensor:
    out = x.new_empty(sum(receive), *x.shape[1:])
    dist.all_to_all_single(out, x.contiguous(), receive, send, group=group)
    return out


def experts_dispatch(
    x_TD: Tensor,
    choice_Tk: Tensor,
    weight_Tk: Tensor,
    num_experts: int,
    group: dist.ProcessGroup,
    compute: Compute,
) -> Tensor:
    """As `experts_training`. Process i of the n in `group` has the experts from i * num_experts / n
    on.

    Collective: every process of the group calls it, also with no tokens. Assignments of weight 0
    are not sent.
    """
    processes = dist.get_world_size(group)
    top_k = choice_Tk.shape[1]
    wide = torch.promote_types(x_TD.dtype, torch.float32)
    choice = choice_Tk.flatten()
    weight = weight_Tk.flatten()
    kept = (weight != 0).nonzero().squeeze(1)
    order = kept[torch.argsort(choice[kept], stable=True)]
    counts_E = torch.bincount(choice[kept], minlength=num_experts)
    arriving_E = torch.empty_like(counts_E)  # for this process's experts, sender by sender
    dist.all_to_all_single(arriving_E, counts_E, group=group)
    send = counts_E.view(processes, -1).sum(1).tolist()
    receive = arriving_E.view(processes, -1).sum(1).tolist()
    expert_n = torch.arange(num_experts // processes, device=x_TD.device).repeat(processes)
    token = order // top_k
    exchange: Any = _Exchange.apply
    rows_nD = exchange(x_TD.index_select(0, token), send, receive, group)
    out_nD = compute(rows_nD, expert_n.repeat_interleave(arriving_E))
    back = exchange(out_nD, receive, send, group)
    weighted = back.to(wide) * weight[order].to(wide).unsqueeze(1)
    y_TD = torch.zeros(x_TD.shape, dtype=wide, device=x_TD.device)
    return y_TD.index_add(0, token, weighted).to(x_TD.dtype)


def experts_of_rows(
    x_nD: Tensor,
    expert_n: Tensor,
    gate_up: tuple[Tensor, Tensor],
    down: tuple[Tensor, Tensor],
    limit: float,
) -> Tensor:
    """W2 swiglu(W1 x + b1) + b2 of every row, by its expert `expert_n`; differentiable, in the
    dtype of x.
    """
    wide = torch.promote_types(x_nD.dtype, torch.float32)
    one_n1 = torch.ones(len(x_nD), 1, device=x_nD.device, dtype=wide)
    return experts_training(x_nD, expert_n.unsqueeze(1), one_n1, gate_up, down, limit)
