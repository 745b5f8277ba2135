"""MXFP4 in training: what rounding costs each tensor under each rule, and training that sees it
(QAT).

    print(report("runs/mine/train"))          # or a model in memory, or a checkpoint in any layout

Post-training quantization itself is `checkpoint.export(model, folder, rule=...)` and
`checkpoint.convert`; the number format is `mxfp4.py`. Which rule OpenAI used is not public.

Quantization-aware training: the forward sees the experts' rounded values, the gradient goes
straight through to the exact float32 ones (arXiv 1308.3432, section 4), scales are worked out anew
in every step. Experts only: nothing else is stored in MXFP4.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from ossia import mxfp4
from ossia.checkpoint import open_checkpoint
from ossia.checkpoint.mapped import MappedFile
from ossia.errors import ConfigError
from ossia.figures import markdown_table
from ossia.model import TrainableExperts, Transformer
from ossia.mxfp4 import RoundingError, ScaleRule, error_of
from ossia.train.weights.lora import LoraExperts

RULES: tuple[ScaleRule, ...] = get_args(ScaleRule)
RUN_WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class RoundingReport:
    """Every expert tensor under every rule; `str(report)` is a Markdown table, the sum of all
    tensors at its end.
    """

    rows: tuple[RoundingError, ...]

    def total(self, rule: ScaleRule) -> RoundingError:
        """All tensors together."""
        rows = [row for row in self.rows if row.rule == rule]
        return sum(rows, RoundingError("all", rule))

    @property
    def rules(self) -> list[ScaleRule]:
        rules = [row.rule for row in self.rows]
        return list(dict.fromkeys(rules))

    @property
    def best(self) -> ScaleRule:
        """The rule with the least noise over all tensors; the first of equals."""
        return min(self.rules, key=lambda rule: self.total(rule).noise)

    def __str__(self) -> str:
        head = ["tensor", "rule", "relative RMSE", "SQNR dB", "largest error", "saturated"]
        totals = map(self.total, self.rules)
        rows = [*self.rows, *totals]
        return markdown_table(head, [_cells(row) for row in rows])


def _cells(row: RoundingError) -> list[str]:
    return [
        row.tensor,
        row.rule,
        f"{row.relative_rmse:.4f}",
        f"{row.sqnr:.2f}",
        f"{row.largest:.3g}",
        f"{row.saturated_share:.3%}",
    ]


def report(
    model: Transformer | str | os.PathLike[str],
    rules: Sequence[ScaleRule] = RULES,
    *,
    tensors: str = ".experts.",
) -> RoundingReport:
    """What each of `rules` would cost the experts of a model in memory, a run's folder, or a
    checkpoint.

    One expert in memory at a time. Experts that are in MXFP4 already lose nothing under any rule.
    `tensors` chooses by a part of the native name. Raises `CheckpointError` for a folder that does
    not check out, `ConfigError` for another rule or if no tensor is chosen.
    """
    for rule in rules:
        if rule not in RULES:
            raise ConfigError(f"scale rule must be one of {', '.join(RULES)}, found {rule!r}")
    rows: dict[tuple[str, ScaleRule], RoundingError] = {}
    for name, matrix in _expert_matrices(_state(model)):
        if tensors not in name:
            continue
        for rule in rules:
            before = rows.get((name, rule), RoundingError(name, rule))
            rows[name, rule] = before + error_of(matrix, rule, name)
    if not rows:
        raise ConfigError(f"no expert tensor has {tensors!r} in its name")
    return RoundingReport(tuple(rows.values()))


def _state(model: Transformer | str | os.PathLike[str]) -> Mapping[str, Tensor]:
    if isinstance(model, nn.Module):
        return model.state_dict()
    path = Path(model)
    if (path / RUN_WEIGHTS).exists():
        file = MappedFile(path / RUN_WEIGHTS)
        return {name: file.tensor(name) for name in file.entries}
    return open_checkpoint(path).tensors


def _expert_matrices(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(native name of the tensor, one expert's matrix)"""
    for name, tensor in state.items():
        stem, _, kind = name.rpartition(".")
        if ".experts." not in name or kind not in ("weight", "blocks"):
            continue
        for e in range(len(tensor)):
            matrix = tensor[e]
            if kind == "blocks":
                scales = state[f"{stem}.scales"][e]
                matrix = mxfp4.decode(matrix, scales, torch.float32)
            yield stem, matrix


# ---- quantization-aware training ----


def set_fake_quantize(model: Transformer, rule: bool | ScaleRule) -> None:
    """Let the forward see the experts as MXFP4 under `rule` (True: the default one), or exactly
    (False).

    With LoRA on experts it sees matrix and change together, as `merge` will store them under that
    rule. Raises `ConfigError` for another rule.
    """
    if not isinstance(rule, bool) and rule not in RULES:
        raise ConfigError(
            f"quantize must be true, false or one of {', '.join(RULES)}, found {rule!r}"
        )
    bases: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, LoraExperts) and module.rank:
            module.fake_quantize = rule
            bases |= {module.gate_up, module.down}
    for module in model.modules():
        if isinstance(module, TrainableExperts):
            module.fake_quantize = False if module in bases else rule
