"""Reinforcement learning on tasks whose answers can be checked: ask, sample, grade, learn, write a
checkpoint, compare.

    ossia train rl data=sums.jsonl model=nano --out runs/mine           prompts and right answers
    ossia train rl reward=reward.py data=sums.jsonl --out runs/mine     a reward of your own
    ossia train rl 'task=state[k=4..6]' steps=40                        a task of ossia's
    ossia rollouts show runs/mine
    ossia chat runs/mine/model

Three phases: `train` samples answers from the weights as they are, and learns from what they are
worth; `export` writes `OUT/model`; `check` measures held-out problems before and after. Knows the
order of things; the loop is `rl/learn.py`, the numbers are `rl/settings.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch

from ossia.checkpoint import load, open_checkpoint
from ossia.errors import ConfigError
from ossia.figures import markdown_table
from ossia.files import write_json
from ossia.kernels import use_threads
from ossia.model import Transformer
from ossia.mxfp4 import ScaleRule
from ossia.tasks.external import read_task
from ossia.tokenizer import Tokenizer
from ossia.train.loop import train
from ossia.train.optim import trained
from ossia.train.overrides import flat
from ossia.train.pipeline import Phase, watchers_of
from ossia.train.recipes.sft import (
    base_folder,
    check_changes,
    config_of,
    fingerprint,
    stored_bytes,
    tokenizer_of,
    trained_model,
    write_model,
)
from ossia.train.rl import fit
from ossia.train.rl.actors import Copy, Pool
from ossia.train.rl.asks import Problems, Rows, Source, own
from ossia.train.rl.evaluate import FOLDER, evaluate
from ossia.train.rl.learn import Learner
from ossia.train.rl.policy import Policy
from ossia.train.rl.ranks import Ranks
from ossia.train.rl.sampler import Drawer, Sampler
from ossia.train.rl.settings import HYPER, UNUSED, Actors, Evaluating, Objective, Sampling
from ossia.train.run import Run
from ossia.train.settings import Device, Hyperparameters, Lora, Parallel
from ossia.train.step import Worker
from ossia.train.weights.device import device_of
from ossia.train.weights.export import fingerprint as fingerprint_of_weights
from ossia.train.weights.export import start
from ossia.turn import stop_ids


@dataclass(frozen=True)
class Config:
    """What `key=value` can set. One of `data`, `reward` and `task` must be given."""

    data: Path | None = None  # a problem a line: {"prompt": ..., "answer": ...}
    reward: Path | None = None  # a Python file with reward(row, outcome)
    # of ossia's own, commas between them; state[k=4..6;kind=cups]: only such problems
    task: tuple[str, ...] = ()
    model: str = "nano"  # to start from: nano, gpt-oss-20b, a folder, or a Hugging Face id
    teacher: str | None = None  # of objective.distill: a model with the same tokenizer
    method: Literal["lora", "full"] = "full"
    lora: Lora = Lora()  # noqa: RUF009 - frozen
    steps: int = 40
    save_every: int = 10
    sampling: Sampling = Sampling()  # noqa: RUF009 - frozen
    objective: Objective = Objective()  # noqa: RUF009 - frozen
    evaluating: Evaluating = Evaluating()  # noqa: RUF009 - frozen
    quantize: bool = False  # train, and sample from, the experts as they will be stored in MXFP4
    rule: ScaleRule = "rceil"  # for the scales of MXFP4
    layout: Literal["hf", "original", "hf-bf16"] = "hf"  # of the checkpoint that is written
    hyper: Hyperparameters = HYPER
    # that torch and the compiled kernels use; None: as many as they find. On a machine that others
    # use too, one is often fastest. Decides no bit of the result
    threads: int | None = None
    actors: Actors = Actors()  # noqa: RUF009 - frozen
    # processes that train together, under torchrun; each samples its share, unless there are actors
    parallel: Parallel | None = None
    device: Device = "auto"  # to learn on; auto: the CPU, which sampling.sampler=exact needs

    def __post_init__(self) -> None:
        if self.steps < 1 or self.save_every < 1:
            raise ConfigError("steps and save_every must be 1 or more")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads must be 1 or more, found {self.threads}")
        if self.hyper.balance.mode != "none" or self.hyper.balance.router_z:
            raise ConfigError(
                "hyper.balance moves the router for reasons other than rewards: leave mode none "
                "and router_z 0"
            )
        check_changes(self)
        for name in UNUSED:
            if getattr(self.hyper, name) != getattr(HYPER, name):
                raise ConfigError(
                    f"hyper.{name} has no effect here: a step has as many tokens as its answers. "
                    "Set sampling.groups, sampling.samples and sampling.max_tokens"
                )
        if self.sampling.sampler == "exact" and (
            self.hyper.compile or self.hyper.precision != "float32"
        ):
            raise ConfigError(
                "sampling.sampler=exact needs hyper.compile=false and hyper.precision=float32; or "
                "sample with sampling.sampler=float32 and objective.correction=tis"
            )
        if self.device == "cuda" and (self.sampling.sampler == "exact" or self.actors.count):
            raise ConfigError(
                "device=cuda learns from samples of this process that are not exact: sample with "
                "sampling.sampler=float32 and objective.correction=tis, without actors; or "
                "device=cpu"
            )
        if self.objective.advantage == "maxrl" and self.sampling.punishes:
            raise ConfigError(
                "objective.advantage=maxrl is of rewards that are 0 or more, and `over` of "
                "sampling.prices makes some less: choose centered, rloo or std, or leave over at 0"
            )
        if self.objective.refresh and self.parallel is not None:
            raise ConfigError(
                "objective.refresh keeps the whole model in one process: leave it, or parallel, out"
            )
        if (self.teacher is None) != (self.objective.distill == "none"):
            raise ConfigError(
                "objective.distill says how to learn from a teacher, and teacher=MODEL from whom: "
                "give both or none"
            )
        if self.sampling.sampler in ("bf16", "int8") and self.method == "lora":
            raise ConfigError(
                "the compiled kernels cannot sample from a model with low-rank changes: use "
                "sampling.sampler=exact or float32, or method=full"
            )

    @property
    def changes(self) -> Lora | None:
        """None: every weight is trained."""
        return self.lora if self.method == "lora" else None


def phases(config: Config, out: Path) -> list[Phase]:
    """What there is to do. Raises `ConfigError` if no task is given, `DataError` for one that
    cannot be read, `ModelNotFoundError` if there is no such model.
    """
    problems_of(config)
    shape = config_of(config.model)
    settings = _settings(config)
    asked = config.sampling.groups * config.sampling.samples
    needs = tuple(path for path in (config.data, config.reward) if path is not None)
    return [
        Phase(
            name="train",
            does="Answer problems, and learn from what the answers are worth.",
            run=partial(learn, config, out),
            tokens=config.steps * asked * config.sampling.max_tokens,
            config=shape,
            settings=settings,
            hyper=config.hyper,
            lora=config.changes,
            needs=needs,
            parallel=config.parallel,
            together=True,
        ),
        Phase(
            name="export",
            does="Write the model as a checkpoint.",
            run=partial(write_model, config, out),
            settings=settings | {"rule": config.rule, "layout": config.layout},
            disk=stored_bytes(shape, config.layout),
        ),
        Phase(
            name="check",
            does="Compare answers to held-out problems before and after.",
            run=partial(compare, config, out),
            settings=settings,
        ),
    ]


def _settings(config: Config) -> dict[str, Any]:
    """What decides the result."""
    found: dict[str, Any] = {
        "model": config.model,
        "method": config.method,
        **_asked(config),
        "steps": config.steps,
        "quantize": config.quantize,
        **flat(config.hyper, "hyper"),
        **flat(config.sampling, "sampling"),
        **flat(config.objective, "objective"),
        **flat(config.evaluating, "evaluating"),
    }
    if config.changes is not None:
        found |= flat(config.changes, "lora")
    return found


def _asked(config: Config) -> dict[str, Any]:
    """What is learned from, and from whom."""
    files = [path for path in (config.data, config.reward) if path is not None]
    teacher = None if config.teacher is None else base_folder(config.teacher)
    return {
        "teacher": fingerprint_of_weights(teacher),  # wherever its folder lies
        "files": fingerprint(files),
        "task": list(config.task),
    }


def problems_of(config: Config) -> Problems:
    """What is asked. Raises `ConfigError` if nothing is, `DataError` for unreadable files."""
    sources: list[Source] = [own(text) for text in config.task]
    if config.data is not None or config.reward is not None:
        sources.append(Rows(read_task(config.data, config.reward)))
    if not sources:
        raise ConfigError(
            "say what to learn: data=FILE with a prompt and an answer a line, reward=FILE.py, or "
            "task=NAME (docs/reinforcement.md)"
        )
    return Problems(tuple(sources), config.sampling.efforts, config.hyper.seed)


# ---- phases ----


def learn(config: Config, out: Path, problems: Problems | None = None) -> Transformer:
    """The run, to its end or on to it. `problems`: others than the config's; not for actors, who
    read its files.
    """
    problems = problems or problems_of(config)
    base = base_folder(config.model)
    context = open_checkpoint(base).config.max_context_length
    for source in problems.sources:
        if isinstance(source, Rows):
            fit.check(source.task, tokenizer_of(base), context)
    for warning in problems.warnings():
        print(f"ossia: {warning}", file=sys.stderr)
    _use_threads(config)
    run = run_of(config, out, problems)
    return train(run, watchers=watchers_of(run))


def _use_threads(config: Config) -> None:
    if config.threads is not None:
        use_threads(config.threads)


def run_of(config: Config, out: Path, problems: Problems | None = None) -> Run:
    plain = _model_of_run(config, out / "train")
    tokenizer = tokenizer_of(base_folder(config.model))
    teacher = None
    if config.teacher is not None:
        teacher = _teacher(config.teacher, tokenizer, device_of(plain))
    policy = Policy(config.objective, config.sampling, teacher, _asked(config))
    run = replace(plain, objective=policy)
    learner = Learner(
        problems or problems_of(config),
        tokenizer,
        stop_ids(tokenizer),
        _drawer(config, tokenizer, run.out),
        _digest(policy, config),
        run.out,
        config.objective,
        config.sampling,
        config.evaluating,
        config.steps,
        start(run).eval().requires_grad_(False) if config.objective.kl else None,
        teacher,
    )
    return replace(run, batches=learner.batches)


def _model_of_run(config: Config, out: Path) -> Run:
    """What is trained, and how; not yet on what."""
    base = base_folder(config.model)
    return Run(
        name="rl",
        config=open_checkpoint(base).config,
        examples=None,
        steps=config.steps,
        hyper=replace(config.hyper, warmup=min(config.hyper.warmup, config.steps // 4)),
        out=out,
        start_from=base,
        quantize=config.rule if config.quantize else False,
        lora=config.changes,
        save_every=config.save_every,
        parallel=config.parallel,
        batches=lambda worker, state: iter(()),
        updates=config.objective.updates,
        halves=config.objective.halves,
        threads=config.threads,
        device=config.device,
    )


def _digest(policy: Policy, config: Config) -> str:
    """Of all that decides samples and rewards beside the weights that are trained."""
    base = fingerprint_of_weights(base_folder(config.model))
    text = json.dumps([policy.identity(), config.hyper.seed, base], sort_keys=True)
    return sha256(text.encode()).hexdigest()[:16]


def _drawer(config: Config, tokenizer: Tokenizer, out: Path) -> Callable[[Worker], Drawer]:
    """Who samples: this process, actors, or each of several processes its share."""

    def here(model: Transformer) -> Sampler:
        return Sampler(model, tokenizer, stop_ids(tokenizer), config.sampling)

    def elsewhere(model: Transformer) -> Drawer:
        checker = None
        if config.sampling.sampler == "exact":
            checker = partial(here, model)
        make = partial(copy_of, _with_whole_paths(config))
        return Pool(config.actors, make, trained(model), checker, out / "weights")

    def drawer(worker: Worker) -> Drawer:
        make = elsewhere if config.actors.count else here
        if config.parallel is None:
            return make(worker.model)
        return Ranks(worker.model, config.quantize and config.rule, make, not config.actors.count)

    return drawer


def copy_of(config: Config) -> Copy:
    """For an actor: what this run begins with."""
    run = _model_of_run(config, Path("unused"))
    tokenizer = tokenizer_of(base_folder(config.model))
    problems = problems_of(config)
    return Copy(start(run), problems, tokenizer, stop_ids(tokenizer), config.sampling)


def _with_whole_paths(config: Config) -> Config:
    """An actor's folder may be another."""
    model = config.model
    if Path(model).exists():
        model = str(Path(model).resolve())
    return replace(config, model=model, data=_whole(config.data), reward=_whole(config.reward))


def _whole(path: Path | None) -> Path | None:
    return None if path is None else path.resolve()


def _teacher(name: str, tokenizer: Tokenizer, device: torch.device) -> Transformer:
    """Raises `ConfigError` if it reads other tokens."""
    folder = base_folder(name)
    if tokenizer_of(folder).specials != tokenizer.specials or (
        tokenizer_of(folder).vocab_size != tokenizer.vocab_size
    ):
        raise ConfigError(
            f"{name} has another tokenizer than the model that learns; its answers can be learned "
            "as examples: ossia train sft"
        )
    return load(folder, "float32", device).eval().requires_grad_(False)


def compare(config: Config, out: Path) -> Mapping[str, Any]:
    """`OUT/check/report.json`: see `measure`."""
    report = measure(config, out / "train", out / "check", problems_of(config))
    print(f"try it: ossia chat {out / 'model'}")
    return report


def measure(config: Config, trained: Path, place: Path, problems: Problems) -> Mapping[str, Any]:
    """`place/report.json`: held-out problems as they were answered before the first step and after
    the last.
    """
    _use_threads(config)
    base = base_folder(config.model)
    tokenizer = tokenizer_of(base)
    model = trained_model(config, base, trained)
    sampler = Sampler(model, tokenizer, stop_ids(tokenizer), config.sampling)
    try:
        after = evaluate(
            sampler,
            problems,
            config.evaluating,
            place,
            config.steps,
            config.steps * config.objective.updates,
        )
    finally:
        sampler.close()
    first = trained / FOLDER / f"{0:06d}.json"
    before = json.loads(first.read_text(encoding="utf-8")) if first.exists() else None
    report = {"before": before, "after": after}
    write_json(place / "report.json", report)
    print(_table(before, after, config.evaluating.samples))
    return report


def _cell(row: Mapping[str, float], name: str, shape: str) -> str:
    """A dash for what was not measured, or not graded at all."""
    is_score = name.startswith("pass")
    if name not in row or (is_score and not row["problems"]):
        return "-"
    return format(row[name], shape)


def _table(before: Mapping[str, Any] | None, after: Mapping[str, Any], k: int) -> str:
    rows = []
    for arm, now in after["arms"].items():
        then = {} if before is None else before["arms"].get(arm, {})
        cells = [arm]
        for name, shape in (("pass@1", ".0%"), (f"pass@{k}", ".0%"), ("analysis", ".0f")):
            cells.append(f"{_cell(then, name, shape)} -> {_cell(now, name, shape)}")
        rows.append(cells)
    head = ["held-out problems", "pass@1", f"pass@{k}", "tokens of thought"]
    return markdown_table(head, rows)
