"""E10, MXFP4: what rounding the experts costs under each rule, and how much of it training that sees it wins back.

From the recipe's fine-tuned weights: float; rounded after training under each scale rule; trained on for some steps
with the experts seen through MXFP4 (QAT), and for the same steps without, which is what QAT is held against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from ossia import mxfp4
from ossia.batch import Batch
from ossia.data import conversations
from ossia.data.packing import Example
from ossia.engine import SamplingParams
from ossia.evals import cases
from ossia.harmony import Effort, render_for_training
from ossia.llm import LLM
from ossia.model import Transformer
from ossia.model.moe import TrainableExperts
from ossia.mxfp4 import ScaleRule
from ossia.respond import evaluate
from ossia.tasks import problems
from ossia.train.loop import train
from ossia.train.pipeline import watchers_of
from ossia.train.quantization import RULES, report
from ossia.train.run import Run
from ossia.train.weights import load_weights
from recipes.experiments.common import HELD_OUT, Lab, budget_of
from recipes.experiments.results import (
    Criterion,
    Estimate,
    Panel,
    Published,
    Result,
    at_least,
    difference,
    mean_of,
    over_items,
    points,
    write,
)

RULE: ScaleRule = "rceil"  # of the export, and of QAT
TASK, EFFORT, LONGEST = "arithmetic", Effort.LOW, 96  # tokens of an answer
RECOVERS = 0.6
AT_ONCE = 4096  # tokens of a forward pass


def continuation(lab: Lab, out: Path, quantize: bool, seed: int) -> Run:
    """The recipe's last part of training, of other length, with or without QAT."""
    own = lab.recipe_of(seed).quantized
    folder = out / f"{'qat' if quantize else 'float'}-{seed}"
    return replace(own, name=folder.name, steps=lab.sizes.continuation, quantize=quantize, out=folder)


def all_runs(lab: Lab, out: Path) -> list[Run]:
    return [continuation(lab, out, quantize, s) for s in range(lab.sizes.seeds) for quantize in (False, True)]


@torch.no_grad()
def rounded(model: Transformer, rule: ScaleRule) -> Transformer:
    """In place: the experts' matrices as the export under that rule stores them."""
    for leaf in (m for m in model.modules() if isinstance(m, TrainableExperts)):
        leaf.weight.copy_(mxfp4.fake_quantize(leaf.weight, rule))
    return model


# ---- measures ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Of each held-out conversation, in nats a learned token: the loss, and the KL divergence from a reference. Of each
    held-out problem: whether it was answered exactly."""

    loss: list[float]
    kl: list[float]
    exact: list[float]


@torch.no_grad()
def log_probabilities(model: Transformer, examples: Sequence[Example]) -> list[Tensor]:
    """float32 [R, V] of each conversation: at the positions before the tokens to learn."""
    out: list[Tensor] = []
    for group in _groups(examples):
        rows, begin = [], 0
        for one in group:
            rows.append(torch.tensor(one.mask[1:]).nonzero().squeeze(1) + begin)
            begin += len(one.ids) - 1
        batch = Batch.packed([len(one.ids) - 1 for one in group], output_rows=torch.cat(rows))
        logits_RV = model(torch.tensor([i for one in group for i in list(one.ids)[:-1]]), batch)
        out += logits_RV.float().log_softmax(-1).split([len(r) for r in rows])
    return out


def _groups(examples: Sequence[Example]) -> list[list[Example]]:
    groups: list[list[Example]] = [[]]
    for one in examples:
        if groups[-1] and sum(len(e.ids) for e in groups[-1]) + len(one.ids) > AT_ONCE:
            groups.append([])
        groups[-1].append(one)
    return groups


def losses_of(found: Sequence[Tensor], examples: Sequence[Example]) -> list[float]:
    targets = (torch.tensor([i for i, m in zip(e.ids, e.mask, strict=True) if m]) for e in examples)
    return [-x.gather(1, t.unsqueeze(1)).mean().item() for x, t in zip(found, targets, strict=True)]


def divergences(reference: Sequence[Tensor], found: Sequence[Tensor]) -> list[float]:
    """KL(reference || found) of each conversation."""
    return [(p.exp() * (p - q)).sum(-1).mean().item() for p, q in zip(reference, found, strict=True)]


def exact_answers(model: Transformer, lab: Lab) -> list[float]:
    llm = LLM(model.eval(), lab.recipe.tokenizer, SamplingParams(temperature=0.0))
    asked = list(cases(problems(TASK, lab.sizes.answers), (EFFORT,)))
    found, _ = evaluate(llm, asked, llm.params(max_tokens=LONGEST))
    return [float(result.score == 1.0) for result in found.results]


def held_out(lab: Lab) -> list[Example]:
    """Conversations of the held-out split; their last turn counts. One without anything to learn is left out."""
    tokenizer = lab.recipe.tokenizer
    made = conversations(lab.recipe.config.seed + HELD_OUT, "held_out")
    rendered = (render_for_training(one, tokenizer, last_turn_only=True) for one, _ in made)
    examples = (Example(one.ids, one.mask) for one in rendered if any(one.mask[1:]))
    return list(islice(examples, lab.sizes.conversations))


def run(lab: Lab, out: Path) -> Result:
    for one in all_runs(lab, out):
        train(one, watchers=watchers_of(one))
    examples = held_out(lab)

    def measure(model: Transformer, reference: list[Tensor] | None) -> tuple[Measured, list[Tensor]]:
        found = log_probabilities(model.eval(), examples)
        kl = divergences(reference or found, found)
        return Measured(losses_of(found, examples), kl, exact_answers(model, lab)), found

    made: dict[str, list[Measured]] = {}
    start, reference = measure(_sft(lab), None)
    made["float"] = [start]
    for rule in RULES:
        made[f"PTQ {rule}"] = [measure(rounded(_sft(lab), rule), reference)[0]]
    for seed in range(lab.sizes.seeds):
        control, quantized = (continuation(lab, out, q, seed) for q in (False, True))
        plain, control_reference = measure(load_weights(control.config, control.out), None)
        after = measure(rounded(load_weights(control.config, control.out), RULE), control_reference)[0]
        qat = measure(rounded(load_weights(quantized.config, quantized.out), RULE), control_reference)[0]
        for name, of in (("control", plain), (f"control, PTQ {RULE}", after), ("QAT", qat)):
            made.setdefault(name, []).append(of)
    numbers = _numbers(made)
    result = Result(
        "E10", "MXFP4", _sentence(numbers), "the recipe's model, from its fine-tuned weights", lab.sizes.seeds,
        budget_of(all_runs(lab, out)), numbers, criteria(made), _published(numbers), _panels(numbers),
        _notes(lab), (_totals(lab),),
    )  # fmt: skip
    write(result, out)
    return result


def _sft(lab: Lab) -> Transformer:
    return load_weights(lab.recipe.long, lab.out / "sft")


def _totals(lab: Lab) -> str:
    """The rounding errors of all experts together, a line a rule."""
    found = report(lab.out / "sft")
    head = "| rule | relative RMSE | SQNR dB | saturated |\n|---|---|---|---|"
    totals = [found.total(rule) for rule in found.rules]
    rows = [f"| {t.rule} | {t.relative_rmse:.4f} | {t.sqnr:.2f} | {t.saturated_share:.2%} |" for t in totals]
    return "\n".join(["Rounding the fine-tuned experts, all tensors together:", "", head, *rows])


# ---- how much is won back ------------------------------------------------------------------------


def gaps(made: dict[str, list[Measured]], measure: str, sign: float = 1.0) -> list[list[tuple[float, float]]]:
    """Of each seed and item: (what rounding the control costs, what QAT costs against the control)."""
    names = ("control", f"control, PTQ {RULE}", "QAT")
    out = []
    for seed in zip(*(made[name] for name in names), strict=True):
        control, after, qat = (getattr(one, measure) for one in seed)
        out.append([(sign * (b - a), sign * (c - a)) for a, b, c in zip(control, after, qat, strict=True)])
    return out  # fmt: skip


def recovered(pairs: Sequence[Sequence[tuple[float, float]]]) -> Estimate:
    """1 - (QAT's cost) / (rounding's cost), of sums over items."""

    def share(items: Sequence[tuple[float, float]]) -> float:
        gap = sum(g for g, _ in items)
        return 1 - sum(q for _, q in items) / gap if gap else float("nan")

    return over_items(pairs, share)


def recovers(claim: str, pairs: Sequence[Sequence[tuple[float, float]]]) -> Criterion:
    """Whether 60% of the gap is won back; null if there is no gap to win back, whatever the share comes to."""
    gap = mean_of([[g for g, _ in of] for of in pairs])
    if not gap.low > 0:
        return Criterion(claim, f"{RECOVERS:g} or more", f"no gap that is clearly above 0: {gap}", "null")
    return at_least(claim, recovered(pairs), RECOVERS)


def criteria(made: dict[str, list[Measured]]) -> tuple[Criterion, ...]:
    return (
        recovers("QAT recovers most of what rounding costs in loss: share", gaps(made, "loss")),
        recovers(f"the same in exact answers ({TASK}, held out)", gaps(made, "exact", -1.0)),
    )


def _numbers(made: dict[str, list[Measured]]) -> dict[str, dict[str, Estimate]]:
    numbers: dict[str, dict[str, Estimate]] = {}
    for name, of in made.items():
        base = made["control" if name in ("QAT", f"control, PTQ {RULE}") else "float"]
        numbers[name] = {
            "loss": mean_of([one.loss for one in of]),
            "KL to float": mean_of([one.kl for one in of]),
            "exact answers": mean_of([one.exact for one in of]),
        }
        if name not in ("float", "control"):
            numbers[name]["loss added"] = difference([one.loss for one in of], [one.loss for one in base])
    for key, measure, sign in (("loss", "loss", 1.0), ("KL", "kl", 1.0), ("exact answers", "exact", -1.0)):
        numbers["QAT"][f"share of the gap recovered, {key}"] = recovered(gaps(made, measure, sign))
    return numbers


# ---- in words ------------------------------------------------------------------------------------


def _sentence(numbers: dict[str, dict[str, Estimate]]) -> str:
    after, qat = (numbers[name]["loss added"].mean for name in (f"control, PTQ {RULE}", "QAT"))
    return (
        f"Rounding the experts to MXFP4 after training adds {after:.4f} nats to the held-out loss; after the same "
        f"steps with the rounding in sight, the rounded model has {qat:+.4f} nats against the unrounded control."
    )


def _published(numbers: dict[str, dict[str, Estimate]]) -> tuple[Published, ...]:
    exact = {name: numbers[name]["exact answers"].mean for name in (f"control, PTQ {RULE}", "QAT")}
    return (
        Published("two tasks, before -> after fine-tuning and QAT", "16% / 30% -> 98%", "NVIDIA's blog on gpt-oss QAT",
                  " -> ".join(f"{share:.1%}" for share in exact.values()) + f" exact ({TASK}, PTQ -> QAT)"),
    )  # fmt: skip


def _panels(numbers: dict[str, dict[str, Estimate]]) -> tuple[Panel, ...]:
    def column(measure: str) -> dict[str, Estimate]:
        return {name: of[measure] for name, of in numbers.items() if measure in of}

    kl = {name: one for name, one in column("KL to float").items() if name not in ("float", "control")}
    return (
        points("Loss added by MXFP4", "nats", column("loss added"), (0.0,)),
        points("KL divergence from float", "nats", kl),
        points(f"Exact answers, {TASK}", "share", column("exact answers")),
    )


def _notes(lab: Lab) -> tuple[str, ...]:
    return (
        f"QAT and control: {lab.sizes.continuation} steps each, on the same conversations. The KL divergence of QAT is "
        "that from the control, another model, so it counts more than rounding.",
        "Rounding that is trained away may be more than was lost: a share over 100% says that QAT is better than the "
        "unrounded control. Which rule gpt-oss was quantized with, and how it was trained for it, is not public.",
    )
