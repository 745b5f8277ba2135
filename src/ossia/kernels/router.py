"""The router in one kernel, where one serves; otherwise the model computes it with torch."""

from __future__ import annotations

from torch import Tensor

from ossia.kernels import triton
from ossia.kernels.linear import widened


def route(
    x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor, top_k: int, rows: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """choice int64 [T, k], best first and ties by number, weight float32 [T, k], logits float32
    [T, E]; None if no kernel serves. `rows`, int32 [1] on the device: how many rows are real; the
    others go to no expert (E).
    """
    if not triton.serves(x_TD, weight_ED, bias_E):
        return None
    from ossia.kernels.triton.router import route_rows

    return route_rows(widened(x_TD), weight_ED, bias_E, top_k, rows)
