"""The effect of a filter of documents, in shares with intervals.

Knows labels and decisions; does not know texts or classifiers.
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
    """The blocklist alone and both stages; `str(report)` is a Markdown table, `as_json` for files.

    Intervals are Wilson's, 95%. Shares are of these documents: precision depends on how common each
    label is.
    """

    removes: str  # the label that should be removed
    blocklist: StageReport
    both: StageReport

    def __str__(self) -> str:
        alone = self.blocklist
        both = self.both
        rows = [
            ("precision", alone.precision, both.precision),
            ("recall", alone.recall, both.recall),
        ]
        for label in self.labels:
            rows.append((f"removed of {label}", alone.removed[label], both.removed[label]))
        rows.append(("removed of all", alone.removed_of_all, both.removed_of_all))
        head = f"| to remove: {self.removes} | blocklist alone | blocklist, then classifier |"
        lines = [head, "|---|---|---|"]
        for name, one, two in rows:
            lines.append(f"| {name} | {one} | {two} |")
        return "\n".join(lines)

    @property
    def labels(self) -> list[str]:
        return list(self.both.removed)

    def as_json(self) -> dict[str, Any]:
        return {
            "removes": self.removes,
            "blocklist": _stage_as_json(self.blocklist),
            "both": _stage_as_json(self.both),
        }


def measure(
    labels: Sequence[str], removes: str, by_blocklist: Sequence[bool], by_both: Sequence[bool]
) -> FilterReport:
    """The report of two lists of decisions (True: removed) over documents with these labels."""
    blocklist = _stage(labels, removes, by_blocklist)
    both = _stage(labels, removes, by_both)
    return FilterReport(removes, blocklist, both)


def _stage(labels: Sequence[str], removes: str, removed: Sequence[bool]) -> StageReport:
    decisions = map(bool, removed)
    pairs = list(zip(labels, decisions, strict=True))

    def share(label: str) -> Share:
        gone = pairs.count((label, True))
        return Share(gone, labels.count(label))

    recall = share(removes)
    all_removed = sum(gone for _, gone in pairs)
    precision = Share(recall.right, all_removed)
    by_label = {label: share(label) for label in dict.fromkeys(labels)}
    of_all = Share(all_removed, len(pairs))
    return StageReport(precision, recall, by_label, of_all)


def _stage_as_json(stage: StageReport) -> dict[str, Any]:
    removed = {label: _share_as_json(share) for label, share in stage.removed.items()}
    return {
        "precision": _share_as_json(stage.precision),
        "recall": _share_as_json(stage.recall),
        "removed": removed,
        "removed_of_all": _share_as_json(stage.removed_of_all),
    }


def _share_as_json(share: Share) -> dict[str, Any]:
    low, high = share.wilson()
    return {"count": share.right, "of": share.total, "value": share.value, "low": low, "high": high}
