"""Which rows an expert's tiles hold, worked out where the choice is: nothing waits for the device,
so a step can be captured in a graph.

T tokens, k experts chosen per token, E experts, A = T*k assignments, N tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Routing:
    """`order_A`: the assignments sorted by expert; assignment t*k + j is token t's j-th choice.
    `tiles_N3`: int32 expert, first row in that order, rows. There are as many tiles as any choice
    could need; those that are left over have no rows.
    """

    order_A: Tensor
    tiles_N3: Tensor


def routing(choice_Tk: Tensor, experts: int, rows: int) -> Routing:
    """Tiles of at most `rows` rows. A choice of `experts` (one beyond the last) is none."""
    choice_A = choice_Tk.flatten().long()
    device = choice_A.device
    order_A = torch.argsort(choice_A, stable=True)
    ones_A = torch.ones_like(choice_A)
    # integers: added in any order they give the same sum
    counts = torch.zeros(experts + 1, dtype=torch.int64, device=device)
    counts_E = counts.scatter_add_(0, choice_A, ones_A)[:experts]
    tiles_E = (counts_E + rows - 1) // rows
    tile_ends_E = tiles_E.cumsum(0)
    row_ends_E = counts_E.cumsum(0)
    n_N = torch.arange(most_tiles(len(choice_A), experts, rows), device=device)
    expert_N = torch.searchsorted(tile_ends_E, n_N, right=True)
    is_used_N = expert_N < experts
    expert_N = expert_N.clamp(max=experts - 1)
    nth_N = n_N - (tile_ends_E - tiles_E)[expert_N]
    first_N = (row_ends_E - counts_E)[expert_N] + nth_N * rows
    left_N = (row_ends_E[expert_N] - first_N).clamp(max=rows)
    left_N = torch.where(is_used_N, left_N, 0)
    tiles_N3 = torch.stack((expert_N, first_N, left_N), dim=1)
    return Routing(order_A.int(), tiles_N3.int())


def most_tiles(assignments: int, experts: int, rows: int) -> int:
    """A bound for any choice: each expert that has any begins one, and the rest fill whole ones."""
    return min(assignments, experts) + assignments // rows
