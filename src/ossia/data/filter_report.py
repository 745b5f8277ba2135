"""What a filter of documents does, in shares with intervals. Knows labels and decisions; no texts,
no classifier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ossia.figures import Share


@dataclass(frozen=True)
class StageReport:
    """One way of deciding, over labelled documents."""

    precision: Share  # of what it removes, what should be removed
    recall: Share  # of what should be removed, what it removes
    removed: Mapping[str, Share]  # by label, in the order of first appearance
    removed_of_all: Share


@dataclass(frozen=True)
class FilterReport:
    """The blocklist alone beside both stages; `str(report)` is a Markdown table, `as_json` for
    files.

    Intervals are Wilson's, 95%. Shares are of these documents: precision depends on how common each
    label is.
    """

    removes: str  # the label that should be removed
    blocklist: StageReport
    both: StageReport

    def __str__(self) -> str:
        alone, both = self.blocklist, self.both
        rows = [
            ("precision", alone.precision, both.precision),
            ("recall", alone.recall, both.recall),
            *(
                (f"removed of {label}", alone.removed[label], both.removed[label])
                for label in self.labels
            ),
            ("removed of all", alone.removed_of_all, both.removed_of_all),
        ]
        head = f"| to remove: {self.removes} | blocklist alone | blocklist, then classifier |"
        return "\n".join(
            [head, "|---|---|---|", *(f"| {name} | {one} | {two} |" for name, one, two in rows)]
        )

    @property
    def labels(self) -> list[str]:
        return list(self.both.removed)

    def as_json(self) -> dict[str, Any]:
        stages = {"blocklist": self.blocklist, "both": self.both}
        return {"removes": self.removes} | {
            name: _stage_as_json(stage) for name, stage in stages.items()
        }


def measure(
    labels: Sequence[str], removes: str, by_blocklist: Sequence[bool], by_both: Sequence[bool]
) -> FilterReport:
    """The report of two lists of decisions (True: removed) over documents with these labels."""
    return FilterReport(
        removes, _stage(labels, removes, by_blocklist), _stage(labels, removes, by_both)
    )


def _stage(labels: Sequence[str], removes: str, removed: Sequence[bool]) -> StageReport:
    pairs = list(zip(labels, map(bool, removed), strict=True))

    def share(label: str) -> Share:
        return Share(pairs.count((label, True)), labels.count(label))

    right, all_removed = share(removes), sum(gone for _, gone in pairs)
    by_label = {label: share(label) for label in dict.fromkeys(labels)}
    return StageReport(
        Share(right.right, all_removed), right, by_label, Share(all_removed, len(pairs))
    )


def _stage_as_json(stage: StageReport) -> dict[str, Any]:
    return {
        "precision": _share_as_json(stage.precision),
        "recall": _share_as_json(stage.recall),
        "removed": {label: _share_as_json(share) for label, share in stage.removed.items()},
        "removed_of_all": _share_as_json(stage.removed_of_all),
    }


def _share_as_json(share: Share) -> dict[str, Any]:
    low, high = share.wilson()
    return {"count": share.right, "of": share.total, "value": share.value, "low": low, "high": high}
