"""E10, MXFP4: what rounding the experts costs under each rule, and how much of it training that
sees it wins back.

From the recipe's pre-trained weights, whose experts hold what text says: float; rounded after
training under each scale rule; trained on for some steps with the experts seen through MXFP4 (QAT),
and for the same steps without, which is what QAT is held against. Then answers of the fine-tuned
weights: float, rounded, and after the recipe's own QAT.
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
from ossia.commands.respond import evaluate
from ossia.data import conversations
from ossia.data.packing import Example
from ossia.engine import SamplingParams
from ossia.harmony import Effort, render_for_training
from ossia.llm import LLM
from ossia.model import Transformer
from ossia.model.moe import TrainableExperts
from ossia.mxfp4 import ScaleRule
from ossia.tasks import TASKS, problems
from ossia.tasks.evals import cases
from ossia.train.loop import train
from ossia.train.pipeline import watchers_of
from ossia.train.run import Run
from ossia.train.weights.export import load_weights
from ossia.train.weights.quantization import RULES, report
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
EFFORT, LONGEST = Effort.MEDIUM, 256  # of the answers, and tokens of one
TUNED = ("fine-tuned", f"fine-tuned, PTQ {RULE}", "fine-tuned, the recipe's QAT")
AFTER = (f"control, PTQ {RULE}", "QAT")  # held against the control
RECOVERS = 0.6
AT_ONCE = 4096  # tokens of a forward pass


def continuation(lab: Lab, out: Path, quantize: bool, seed: int) -> Run:
    """Pre-training that goes on, with the pages in another order, at the rate that it ended with
    and down to 0.
    """
    own = lab.recipe_of(seed + 1)
    hyper = replace(
        own.pretraining.hyper, peak_lr=own.config.hyper.peak_lr / 4, warmup=5, decay=1.0, floor=0.0
    )
    folder = out / f"{'qat' if quantize else 'float'}-{seed}"
    return Run(
        folder.name,
        own.short,
        own._pages,
        lab.sizes.continuation,
        hyper,
        folder,
        start_from=lab.out / "pretrain",
        quantize=quantize,
    )


def all_runs(lab: Lab, out: Path) -> list[Run]:
    return [
        continuation(lab, out, quantize, s)
        for s in range(lab.sizes.seeds)
        for quantize in (False, True)
    ]


@torch.no_grad()
def rounded(model: Transformer, rule: ScaleRule) -> Transformer:
    """In place: the experts' matrices as the export under that rule stores them."""
    for leaf in (m for m in model.modules() if isinstance(m, TrainableExperts)):
        leaf.weight.copy_(mxfp4.fake_quantize(leaf.weight, rule))
    return model


# ---- measures ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Of each held-out text, in nats a learned token: the loss, and the KL divergence from a
    reference.
    """

    loss: list[float]
    kl: list[float]


def measured(
    model: Transformer, reference: Transformer | None, examples: Sequence[Example]
) -> Measured:
    """Without a reference the model is its own."""
    loss, kl = [], []
    for group in _groups(examples):
        found = log_probabilities(model.eval(), group)
        expected = found if reference is None else log_probabilities(reference.eval(), group)
        loss += losses_of(found, group)
        kl += divergences(expected, found)
    return Measured(loss, kl)


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
    return [
        (p.exp() * (p - q)).sum(-1).mean().item() for p, q in zip(reference, found, strict=True)
    ]


def exact_answers(model: Transformer, lab: Lab) -> list[float]:
    """1.0 for each held-out problem that is answered exactly, else 0.0; equally many of every
    task.
    """
    llm = LLM(model.eval(), lab.recipe.tokenizer, SamplingParams(temperature=0.0))
    each = max(1, lab.sizes.answers // len(TASKS))
    asked = list(cases([one for task in TASKS for one in problems(task, each)], (EFFORT,)))
    found, _ = evaluate(llm, asked, llm.params(max_tokens=LONGEST))
    return [float(result.score == 1.0) for result in found.results]


def held_out(lab: Lab) -> list[Example]:
    """Conversations of the held-out split; their last turn counts. One without anything to learn is
    left out.
    """
    tokenizer = lab.recipe.tokenizer
    made = conversations(lab.recipe.config.seed + HELD_OUT, "held_out")
    rendered = (render_for_training(one, tokenizer, last_turn_only=True) for one, _ in made)
    examples = (Example(one.ids, one.mask) for one in rendered if any(one.mask[1:]))
    return list(islice(examples, lab.sizes.conversations))


def pages(lab: Lab) -> list[Example]:
    """Held-out documents, of which everything is to be predicted."""
    return [
        Example(ids, [False] + [True] * (len(ids) - 1))
        for ids in lab.held_out_documents(lab.sizes.texts)
    ]


def run(lab: Lab, out: Path) -> Result:
    for one in all_runs(lab, out):
        train(one, watchers=watchers_of(one))
    made, tuned = _of_pages(lab, out), _of_conversations(lab)
    answers = {name: exact_answers(model, lab) for name, model in _tuned(lab).items()}
    numbers = _numbers(made, tuned, answers)
    result = Result(
        "E10",
        "MXFP4",
        _sentence(numbers),
        "the recipe's model, from its pre-trained weights; answers from its fine-tuned ones",
        lab.sizes.seeds,
        budget_of(all_runs(lab, out)),
        numbers,
        criteria(made, answers),
        _published(numbers),
        _panels(numbers),
        _notes(lab, numbers),
        (_totals(lab),),
    )
    write(result, out)
    return result


def _of_pages(lab: Lab, out: Path) -> dict[str, list[Measured]]:
    examples = pages(lab)

    def pretrained() -> Transformer:
        return load_weights(lab.recipe.short, lab.out / "pretrain")

    base = pretrained()
    made = {"float": [measured(base, None, examples)]}
    for rule in RULES:
        made[f"PTQ {rule}"] = [measured(rounded(pretrained(), rule), base, examples)]
    for seed in range(lab.sizes.seeds):
        runs = [continuation(lab, out, quantize, seed) for quantize in (False, True)]
        control, after, qat = (load_weights(one.config, one.out) for one in (runs[0], *runs))
        found = {
            "control": measured(control, None, examples),
            f"control, PTQ {RULE}": measured(rounded(after, RULE), control, examples),
            "QAT": measured(rounded(qat, RULE), control, examples),
        }
        for name, one in found.items():
            made.setdefault(name, []).append(one)
    return made


def _tuned(lab: Lab) -> dict[str, Transformer]:
    """The recipe's fine-tuned weights; rounded; and what its own QAT made of them, rounded."""
    sft, after, qat = (
        load_weights(lab.recipe.long, lab.out / name) for name in ("sft", "sft", "quantized")
    )
    return dict(zip(TUNED, (sft, rounded(after, RULE), rounded(qat, RULE)), strict=True))


def _of_conversations(lab: Lab) -> dict[str, list[Measured]]:
    examples, models = held_out(lab), _tuned(lab)
    return {name: [measured(model, models[TUNED[0]], examples)] for name, model in models.items()}


def _totals(lab: Lab) -> str:
    """The rounding errors of all experts together, a line a rule."""
    found = report(lab.out / "pretrain")
    head = "| rule | relative RMSE | SQNR dB | saturated |\n|---|---|---|---|"
    totals = [found.total(rule) for rule in found.rules]
    rows = [
        f"| {t.rule} | {t.relative_rmse:.4f} | {t.sqnr:.2f} | {t.saturated_share:.2%} |"
        for t in totals
    ]
    return "\n".join(["Rounding the pre-trained experts, all tensors together:", "", head, *rows])


# ---- how much is won back ------------------------------------------------------------------------


def gaps(made: dict[str, list[Measured]], measure: str) -> list[list[tuple[float, float]]]:
    """Of each seed and text: (what rounding the control costs, what QAT costs against the
    control).
    """
    names = ("control", f"control, PTQ {RULE}", "QAT")
    out = []
    for seed in zip(*(made[name] for name in names), strict=True):
        control, after, qat = (getattr(one, measure) for one in seed)
        out.append([(b - a, c - a) for a, b, c in zip(control, after, qat, strict=True)])
    return out


def answers_lost(answers: dict[str, list[float]]) -> list[list[tuple[float, float]]]:
    """Of each problem: what rounding costs the fine-tuned model, and what the recipe's QAT costs
    against it.
    """
    before, after, qat = (answers[name] for name in TUNED)
    return [[(a - b, a - c) for a, b, c in zip(before, after, qat, strict=True)]]


def recovered(pairs: Sequence[Sequence[tuple[float, float]]]) -> Estimate:
    """1 - (QAT's cost) / (rounding's cost), of sums over items."""

    def share(items: Sequence[tuple[float, float]]) -> float:
        gap = sum(g for g, _ in items)
        return 1 - sum(q for _, q in items) / gap if gap else float("nan")

    return over_items(pairs, share)


def recovers(claim: str, pairs: Sequence[Sequence[tuple[float, float]]]) -> Criterion:
    """Whether 60% of the gap is won back; null if there is no gap to win back, whatever the share
    comes to.
    """
    gap = mean_of([[g for g, _ in of] for of in pairs])
    if not gap.low > 0:
        return Criterion(
            claim, f"{RECOVERS:g} or more", f"no gap that is clearly above 0: {gap}", "null"
        )
    return at_least(claim, recovered(pairs), RECOVERS)


def criteria(
    made: dict[str, list[Measured]], answers: dict[str, list[float]]
) -> tuple[Criterion, ...]:
    return (
        recovers("QAT recovers most of what rounding costs in loss: share", gaps(made, "loss")),
        recovers(
            "the recipe's QAT recovers most of what rounding costs in exact answers: share",
            answers_lost(answers),
        ),
    )


def _numbers(
    made: dict[str, list[Measured]],
    tuned: dict[str, list[Measured]],
    answers: dict[str, list[float]],
) -> dict[str, dict[str, Estimate]]:
    numbers: dict[str, dict[str, Estimate]] = {}
    for name, of in (made | tuned).items():
        untuned = made["control" if name in AFTER else "float"]
        base = tuned[TUNED[0]] if name in TUNED else untuned
        numbers[name] = {
            "loss": mean_of([one.loss for one in of]),
            "KL to float": mean_of([one.kl for one in of]),
        }
        if of is not base:
            numbers[name]["loss added"] = difference(
                [one.loss for one in of], [one.loss for one in base]
            )
    for name, right in answers.items():
        numbers[name]["exact answers"] = mean_of([right])
        if name != TUNED[0]:
            numbers[name]["exact answers added"] = difference([right], [answers[TUNED[0]]])
    for key, measure in (("loss", "loss"), ("KL", "kl")):
        numbers["QAT"][f"share of the gap recovered, {key}"] = recovered(gaps(made, measure))
    return numbers


# ---- in words ------------------------------------------------------------------------------------


def _sentence(numbers: dict[str, dict[str, Estimate]]) -> str:
    after, qat = (numbers[name]["loss added"].mean for name in (f"control, PTQ {RULE}", "QAT"))
    lost = numbers[TUNED[1]]["exact answers added"].mean
    return (
        f"Rounding the experts to MXFP4 after training adds {after:.4f} nats to the loss of "
        "held-out documents; after "
        f"the same steps with the rounding in sight, the rounded model has {qat:+.4f} nats against "
        "the unrounded "
        f"control. The fine-tuned model's exact answers change by {100 * lost:+.1f} points when it "
        "is rounded."
    )


def _published(numbers: dict[str, dict[str, Estimate]]) -> tuple[Published, ...]:
    exact = [numbers[name]["exact answers"].mean for name in TUNED[1:]]
    return (
        Published(
            "two tasks, before -> after fine-tuning and QAT",
            "16% / 30% -> 98%",
            "NVIDIA's blog on gpt-oss QAT",
            " -> ".join(f"{share:.1%}" for share in exact)
            + f" exact (all tasks, {EFFORT} effort, PTQ -> QAT)",
        ),
    )


def _panels(numbers: dict[str, dict[str, Estimate]]) -> tuple[Panel, ...]:
    def column(measure: str) -> dict[str, Estimate]:
        return {name: of[measure] for name, of in numbers.items() if measure in of}

    kl = {
        name: one
        for name, one in column("KL to float").items()
        if name not in ("float", "control", TUNED[0])
    }
    return (
        points("Loss added by MXFP4", "nats", column("loss added"), (0.0,)),
        points("KL divergence from float", "nats", kl),
        points(f"Exact answers, {EFFORT} effort", "share", column("exact answers")),
    )


def _notes(lab: Lab, numbers: dict[str, dict[str, Estimate]]) -> tuple[str, ...]:
    tuned, pages_lose = numbers[TUNED[1]], numbers[f"PTQ {RULE}"]["loss added"]
    return (
        f"QAT and control: {lab.sizes.continuation} steps each of the same pages, from the "
        "pre-trained weights. The KL "
        "divergence of QAT is that from the control, another model, so it counts more than "
        "rounding.",
        f"For the fine-tuned weights, rounding adds {tuned['loss added']} nats to the loss of "
        "held-out conversations "
        f"and {tuned['exact answers added']} to the share of exact answers; for the pre-trained "
        f"ones {pages_lose} nats "
        "to that of documents. In an earlier run the fine-tuned weights were the base, and there "
        "was no gap to win "
        "back; the base was chosen anew after that.",
        "Exact answers are held against the recipe's own QAT, which trains on the fine-tuned "
        "weights for longer, "
        "without a control of equal tokens.",
        "Rounding that is trained away may be more than was lost: a share over 100% says that QAT "
        "is better than the "
        "unrounded control. Which rule gpt-oss was quantized with, and how it was trained for it, "
        "is not public.",
    )
