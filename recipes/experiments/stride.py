"""E4, MoE stride: experts in every layer, in every second, or in none, at the same FLOPs a token.

A layer without experts has one SwiGLU as wide as the experts that a token would have chosen
(`ModelConfig. expert_shape`), so that loss can be held against active FLOPs, which are alike, and
parameters, which are not.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean

from ossia.config import ModelConfig, account
from ossia.train.plan.cost import flops_per_token
from ossia.train.run import Run
from recipes.experiments.common import Lab, budget_of, curves, losses, train_all, trained
from recipes.experiments.results import Estimate, Panel, Result, Series, line, over_seeds, write

CONTEXT = 128  # tokens of a usual document, for counting operations


def configs(lab: Lab) -> dict[str, ModelConfig]:
    never = lab.small.num_hidden_layers + 1
    strides = {"every layer": 1, "every second layer": 2, "no layer": never}
    return {name: replace(lab.small, moe_stride=stride) for name, stride in strides.items()}


def runs(lab: Lab, out: Path) -> dict[str, list[Run]]:
    """Of each stride, one a seed."""
    return {
        name: [
            lab.small_run(out, name, config, lab.sizes.stride, seed, lab.small_hyper)
            for seed in range(1, lab.sizes.small_seeds + 1)
        ]
        for name, config in configs(lab).items()
    }


def run(lab: Lab, out: Path) -> Result:
    made = runs(lab, out)
    everything = [one for of in made.values() for one in of]
    train_all(everything, lab.sizes.processes)
    documents = lab.held_out_documents(lab.sizes.documents)
    numbers: dict[str, dict[str, Estimate]] = {}
    for name, config in configs(lab).items():
        size, flops = account(config), flops_per_token(config, CONTEXT)
        numbers[name] = {
            "loss": over_seeds([mean(losses(trained(one), documents)) for one in made[name]])
        } | {
            key: over_seeds([value] * len(made[name]))
            for key, value in {
                "parameters": size.total,
                "active parameters": size.active,
                "MFLOPs a token": flops / 1e6,
            }.items()
        }
    result = Result(
        "E4",
        "MoE stride",
        _sentence(numbers),
        lab.small_in_words,
        lab.sizes.small_seeds,
        budget_of(everything),
        numbers,
        (),
        (),
        _panels(made, numbers),
        (
            "There is no pass criterion; loss is shown against active FLOPs and against all "
            "parameters. gpt-oss has "
            "experts in every layer.",
        ),
    )
    write(result, out)
    return result


def _sentence(numbers: dict[str, dict[str, Estimate]]) -> str:
    said = [
        f"{of['loss'].mean:.3f} nats with experts in {name} ({of['parameters'].mean / 1e6:.2f}M "
        "parameters)"
        for name, of in numbers.items()
    ]
    return f"At about the same FLOPs a token and the same text, held-out loss is {', '.join(said)}."


def _panels(
    made: dict[str, list[Run]], numbers: dict[str, dict[str, Estimate]]
) -> tuple[Panel, ...]:
    training = []
    for name, of in made.items():
        per_seed = curves(of, "loss")
        step_flops = of[0].hyper.tokens_per_step * numbers[name]["MFLOPs a token"].mean * 1e6
        found = [over_seeds([curve[i][1] for curve in per_seed]) for i in range(len(per_seed[0]))]
        training.append(line(name, [step * step_flops for step, _ in per_seed[0]], found))

    def against(measure: str) -> tuple[Series, ...]:
        return tuple(line(name, [of[measure].mean], [of["loss"]]) for name, of in numbers.items())

    return (
        Panel("Training loss", "FLOPs so far", "nats", tuple(training)),
        Panel("Held-out loss", "MFLOPs a token", "nats", against("MFLOPs a token")),
        Panel("Held-out loss", "parameters", "nats", against("parameters"), log_x=True),
    )
