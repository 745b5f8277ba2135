"""Steps and draws that have been begun: on a device they go on while the host does something else,
and a step may need tokens that nobody has read yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ossia.engine.request import Request, SampledToken
from ossia.engine.scheduler import Step, Work
from ossia.kernels.transfer import integers


@dataclass(frozen=True)
class Unread:
    """`tokens_R`: int64 on the device; the last token of a request is in row `rows[id]`."""

    tokens_R: Tensor
    rows: dict[int, int]

    def put(self, ids_T: Tensor, scheduled: Sequence[Work]) -> None:
        """Into their places among the tokens of scheduled work, [T] or more; on the device."""
        places = []
        rows = []
        end = 0
        for work in scheduled:
            end += work.count
            if work.request.is_unread and work.samples:
                places.append(end - 1)
                rows.append(self.rows[work.request.id])
        if places:
            rows_n = integers(rows, self.tokens_R.device)
            tokens_n = self.tokens_R.index_select(0, rows_n)
            places_n = integers(places, ids_T.device)
            ids_T.index_copy_(0, places_n, tokens_n.to(ids_T))


@dataclass
class Begun:
    """A step that the model runs, or has run."""

    step: Step
    logits_RV: Tensor
    began: float
    is_advanced: bool = False  # the scheduler has been told that the model has seen its tokens

    def __post_init__(self) -> None:
        # asked before their tokens are drawn
        self.sampling = [work for work in self.step.scheduled if work.samples]
        self.only_decodes = all(
            work.samples and work.count == 1 + work.drafts for work in self.step.scheduled
        )


@dataclass(frozen=True)
class Drawing:
    """A draw that has been begun, of these requests' tokens. `tokens_R()`: int64, where the logits
    are. `read` takes them; in its list, of all that were asked for, None stands for a request that
    failed.
    """

    requests: list[Request]
    tokens_R: Callable[[], Tensor]
    read: Callable[[], list[SampledToken | None]]
