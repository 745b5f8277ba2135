"""What one forward pass computes, in plain numbers: which tokens, at which positions, and the pages
that their sequences have. It can be sent to other processes; requests and page tables cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ossia.engine.pages import PageRun, PageTables
from ossia.engine.scheduler import Work


@dataclass(frozen=True)
class Forward:
    """`ids`: T tokens of S sequences, end to end; `lengths[s]` of them belong to sequence s, from
    position `starts[s]` on. `runs`: its pages by window, one run a sequence. `rows`: the tokens
    whose next token is wanted, None: all; one may come several times.
    """

    ids: list[int]
    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    runs: dict[int | None, list[PageRun]]
    rows: list[int] | None

    @property
    def only_decodes(self) -> bool:
        """Whether it is one token of every sequence, each wanted."""
        return self.rows == [*range(len(self.ids))] and len(self.ids) == len(self.lengths)


def forward_of(tables: PageTables, scheduled: Sequence[Work]) -> Forward:
    """Of scheduled work. Of each sampling request, in order, the rows that are wanted are the last
    known token, and each of its drafts.
    """
    ids: list[int] = []
    rows: list[int] = []
    end = 0
    for work in scheduled:
        request = work.request
        known = request.computed + work.count - work.drafts
        ids += request.tokens(request.computed, known)
        ids += request.draft[: work.drafts]
        end += work.count
        if work.samples:
            rows += range(end - 1 - work.drafts, end)
    owners = [work.request.id for work in scheduled]
    return Forward(
        ids,
        tuple(work.count for work in scheduled),
        tuple(work.request.computed for work in scheduled),
        {window: [tables.run(owner, window) for owner in owners] for window in tables.pools},
        rows,
    )
