"""Sampling where several processes train together (FSDP, EP, TP): on whole copies of weights that
lie in parts.

Each process samples its share of the groups, or the first one has it done (`actors.py`); all of
them then have all samples, in order, and so make the same batches. A copy is exact by itself; what
the cut model computes may differ from it in the last bits, which the log shows as `mismatch_*`.

Every method is collective.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from ossia.kernels import products
from ossia.model import Transformer
from ossia.model.parallel import whole
from ossia.mxfp4 import ScaleRule
from ossia.tasks.environment import Ask
from ossia.train.rl.record import Groups
from ossia.train.rl.sampler import Drawer
from ossia.train.weights.quantization import set_fake_quantize
from ossia.turn.rollout import Sample


class Ranks:
    """`make` says who samples from a copy: in every process, or in the first alone (`everywhere`).
    `quantize`: as the run trains.
    """

    def __init__(
        self,
        model: Transformer,
        quantize: bool | ScaleRule,
        make: Callable[[Transformer], Drawer],
        everywhere: bool,
    ) -> None:
        self._rank = dist.get_rank()
        self.leads = self._rank == 0
        self._everywhere = everywhere
        self._model = model
        self._version: int | None = None
        self._weights = ""
        self._copy: Transformer | None = None
        self._drawer: Drawer | None = None
        if everywhere or self.leads:
            self._copy = Transformer(model.config)
            set_fake_quantize(self._copy, quantize)
            self._copy.compute_dtype = model.compute_dtype
        self._gather()
        if self._copy is not None:
            self._drawer = make(self._copy.train())
        self._holds = _hold_as_the_first()

    def prepare(self, version: int) -> str:
        if version != self._version:
            self._version = version
            self._gather()
            found = None if self._drawer is None else self._drawer.prepare(version)
            self._weights = _of_the_first(found)
        return self._weights

    def draw(self, asks: Sequence[Ask], samples: int, version: int) -> list[list[Sample]]:
        self.prepare(version)
        if not self._everywhere:
            found = None
            if self._drawer is not None:
                found = self._drawer.draw(asks, samples, version)
            drawn: list[list[Sample]] = _of_the_first(found)
            return drawn
        assert self._drawer is not None
        size = dist.get_world_size()
        mine = self._drawer.draw(asks[self._rank :: size], samples, version)
        shares: list[Any] = [None] * size
        dist.all_gather_object(shares, mine)
        return [shares[n % size][n // size] for n in range(len(asks))]

    def check(self, groups: Sequence[Sequence[Sample]]) -> int:
        found = None if self._drawer is None else self._drawer.check(groups)
        compared: int = _of_the_first(found)
        return compared

    def agreed(self, found: Groups) -> Groups:
        the_first: Groups = _of_the_first(found)
        return the_first

    def close(self) -> None:
        if self._drawer is not None:
            self._drawer.close()
        if self._holds:
            products.release_rows_alike()

    @torch.no_grad()
    def _gather(self) -> None:
        """One parameter at a time."""
        targets = {} if self._copy is None else dict(self._copy.named_parameters())
        for name, p in self._model.named_parameters():
            value = whole(p)
            if targets:
                targets[name].copy_(value)


def _hold_as_the_first() -> bool:
    """Whether this process now multiplies as the first one's exact engine makes it, which it would
    not do by itself: training would have other bits in each.
    """
    way: str | None = _of_the_first(products.rows_held_alike())
    if way is None or products.rows_held_alike() is not None:
        return False
    products.hold_rows_alike(way)
    return True


def _of_the_first(found: Any) -> Any:
    """What the first process has."""
    held = [found]
    dist.broadcast_object_list(held)
    return held[0]
