"""Align a model with a policy of your own: it learns the rules by heart, and to think of them.

    ossia train align spec=policy.md prompts=prompts.jsonl judge=URL base=gpt-oss-20b --dry-run
    ossia train align spec=policy.md prompts=prompts.jsonl judge=URL base=gpt-oss-20b --out runs/a
    ossia train align --out runs/moonglow                    nano and the built-in, fictional policy
    ossia chat runs/a/model

Five phases: `drafts`, answers with the policy in sight; `kept`, those that a judge with the policy
finds right; `learn`, fine-tuning on them without the policy, half of it ordinary conversations;
`reward`, reinforcement learning, half of it on other tasks, by a judge that sees answers and no
reasoning; then `export` and `check`. Before anything is learned it is proven that no prompt holds
the policy. Knows the order of things; the parts are `align/`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any, Literal

from ossia.data.packing import Example
from ossia.errors import ConfigError, TrainingError
from ossia.files import replace_file, write_json
from ossia.harmony import Conversation, Effort, Message, SystemContent, render_for_completion
from ossia.judges import Bench, Endpoint
from ossia.tasks.safety.policy_texts import BUILT_IN, POLICY
from ossia.tasks.safety.requests import Request, read_requests
from ossia.tasks.safety.spec_files import read_policy
from ossia.tasks.safety.specs import Policy
from ossia.tokenizer import Tokenizer
from ossia.train.align import prompts
from ossia.train.align.costs import Plan
from ossia.train.align.drafts import Draft, lines_of, read_drafts
from ossia.train.align.generate import (
    FOLDER,
    InProcess,
    Reasoner,
    Remote,
    generate,
    loaded,
    prompt_of,
)
from ossia.train.align.grading import Grader, check_judged, grader_of, is_file
from ossia.train.align.removal import Removal
from ossia.train.align.settings import Config
from ossia.train.align.sifting import DraftJudge, Finding, Follows, by_grader, sift
from ossia.train.chats.lines import lines_of as lines_in
from ossia.train.chats.store import ChatExamples
from ossia.train.overrides import flat
from ossia.train.pipeline import Phase
from ossia.train.recipes import rl, sft
from ossia.train.rl import record
from ossia.train.rl.asks import Problems, Source

ABILITIES = ("arithmetic", "word problems", "facts")  # of nano, in stage C
ALIGNED = "aligned.jsonl"
ORDINARY = "ordinary.jsonl"
VERDICTS = "verdicts.jsonl"


def phases(config: Config, out: Path) -> list[Phase]:
    """What there is to do. Raises `DataError` for a policy or prompts that cannot be read,
    `ModelNotFoundError` if there is no such model.
    """
    make = Recipe(config, out)
    stage_b = make.sft  # what either refuses is refused before anything is drafted
    stage_c = make.rl
    shape = sft.config_of(config.base)
    drafted, kept, learned, rewarded = make.settings()
    if stage_b.steps:
        tokens = stage_b.steps * stage_b.hyper.tokens_per_step
    else:
        tokens = round(make.plan.learned(make.tokenizer) * stage_b.epochs)
    needs = tuple(path for path in (config.data, config.reward_file) if path is not None)
    return [
        Phase(
            "drafts",
            "Answer the prompts with the policy in sight.",
            make.draft,
            settings=drafted,
            look=make.look,
            needs=(*needs, *config.ordinary),
        ),
        Phase("kept", "Keep what follows the policy and cites the rule.", make.keep, settings=kept),
        Phase(
            "learn",
            "Learn that without the policy, and ordinary conversations.",
            make.learn,
            tokens=tokens,
            config=shape,
            settings=learned,
            hyper=stage_b.hyper,
            lora=stage_b.changes,
        ),
        Phase(
            "reward",
            "Learn from rewards that see answers and no reasoning.",
            make.reward,
            tokens=make.plan.samples * config.costs.answer,
            config=shape,
            settings=rewarded,
            hyper=stage_c.hyper,
            lora=stage_c.changes,
        ),
        Phase(
            "export",
            "Write the model as a checkpoint.",
            make.export,
            settings=rewarded,
            disk=sft.stored_bytes(shape, config.layout),
        ),
        Phase("check", "Compare held-out answers before and after.", make.check, settings=rewarded),
    ]


@dataclass(frozen=True)
class Recipe:
    """The phases of a run, and what they share."""

    config: Config
    out: Path

    @cached_property
    def policy(self) -> Policy:
        if self.config.spec == BUILT_IN:
            return POLICY
        return read_policy(Path(self.config.spec))

    @cached_property
    def requests(self) -> tuple[Request, ...]:
        if self.config.prompts is None:
            found = prompts.built_in(self.config.made, self.config.seed)
        else:
            found = read_requests(self.config.prompts, self.policy)
        return prompts.distinct(found)

    @cached_property
    def trained(self) -> list[Request]:
        return prompts.trained_on(self.requests)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return sft.tokenizer_for(self.config.base)

    @property
    def plan(self) -> Plan:
        config = self.config
        sampling = config.reward.sampling
        return Plan(
            self.policy,
            self.requests,
            self.trained,
            config.generate,
            config.reward.steps * sampling.groups * sampling.samples,
            config.judge_is_model,
            config.drafts_remotely,
            config.costs,
        )

    def settings(self) -> tuple[dict[str, Any], ...]:
        """What decides the results of each phase: all that decided those before, and its own."""
        config = self.config
        asked = {
            "policy": self.policy.digest,
            "prompts": _digest(request.row for request in self.requests),
            "base": config.base,
        }
        # servers by the models that they have: an address may change
        drafted = {**asked, "reasoner": config.reasoner_name, **flat(config.generate, "generate")}
        kept = {**drafted, "judge": config.judge_name, **flat(config.efforts, "efforts")}
        if is_file(config.judge):
            kept["judge_file"] = sft.fingerprint([Path(config.judge)])
        learned = {
            **kept,
            **flat(config.learn, "learn"),
            "ordinary": sft.fingerprint(config.ordinary),
            "longest_run": config.longest_run,
            "method": config.method,
            "quantize": config.quantize,
            "rule": config.rule,
            "layout": config.layout,
            "seed": config.seed,
        }
        if config.method == "lora":
            learned |= flat(config.lora, "lora")
        others = [path for path in (config.data, config.reward_file) if path is not None]
        rewarded = {
            **learned,
            **flat(config.reward, "reward"),
            "task": list(config.task),
            **({"judge_seconds": config.judge_seconds} if config.judge_is_model else {}),
            "others": sft.fingerprint(others),
        }
        return drafted, kept, learned, rewarded

    # ---- stage A ---------------------------------------------------------------------------------

    def look(self) -> str:
        """What a dry run says. Raises as `draft` does before it asks anybody."""
        self._check()
        return self.plan.text(self.tokenizer)

    def _check(self) -> None:
        """What would stop the run when half of its work is done. Raises `TrainingError` for a
        prompt that holds the policy, `DataError` where a judge has nothing to go by.
        """
        check_judged(self.config.judge, self.policy, self.requests)
        self._check_prompts(self._removal())

    def draft(self) -> None:
        """Raises `JudgeError` for a judge that is none, before anything is drafted."""
        self._check()
        self._follows(self.out / "kept" / VERDICTS)
        self._grader(self.out / "reward" / VERDICTS)
        generate(self.trained, self._reasoner, self.config.generate, self.out / "drafts")

    def _reasoner(self) -> Reasoner:
        config = self.config
        if config.drafts_remotely:
            key = os.environ.get("OSSIA_REASONER_KEY", "")
            url = str(config.reasoner)
            return Remote(url, config.reasoner_model, self.policy, config.generate, key)
        made = config.generate
        if made.temperature != 1 and made.sampler != "exact":
            raise ConfigError(
                f"generate.temperature={made.temperature} needs generate.sampler=exact, or a server"
            )
        name = config.reasoner or config.base
        folder = sft.base_folder(name)
        tokenizer = sft.tokenizer_of(folder)
        model = loaded(folder, config.generate)
        return InProcess(model, name, tokenizer, self.policy, config.generate)

    def keep(self) -> None:
        """`kept/aligned.jsonl`, and `report.json` with what became of the drafts. Raises
        `TrainingError` if nothing was kept.
        """
        folder = self.out / "kept"
        judge = self._follows(folder / VERDICTS)
        found: Counter[str] = Counter()
        by_rule: Counter[str] = Counter()
        rows: list[dict[str, Any]] = []
        drafts = list(self._drafts())
        with ThreadPoolExecutor(self.config.generate.at_once) as pool:
            findings = list(pool.map(partial(self._sifted, judge), drafts))
        for draft, finding in zip(drafts, findings, strict=True):
            request = self.trained[draft.request]
            found[finding.why or "kept"] += 1
            if finding.is_kept:
                by_rule[str(finding.rule)] += 1
                effort = self.config.efforts[len(rows) % len(self.config.efforts)]
                about = self._provenance(request, draft, finding.rule)
                rows.append(prompts.aligned_row(request, draft, effort, about))
        report = {"drafts": dict(found), "kept by rule": dict(sorted(by_rule.items()))}
        write_json(folder / "report.json", report)
        said = ", ".join(f"{count:,} {why}" for why, count in found.most_common())
        print(f"drafts: {said}")
        if not rows:
            raise TrainingError(
                f"none of the drafts is kept ({said}): look at {self.out / 'drafts' / FOLDER}; a "
                "stronger reasoner, or a clearer policy, may do"
            )
        replace_file(folder / ALIGNED, lines_of(rows), sole_writer=True)

    def _sifted(self, judge: Follows, draft: Draft) -> Finding:
        return sift(self.policy, judge, self.trained[draft.request], draft)

    def _drafts(self) -> Iterator[Draft]:
        for path in sorted((self.out / "drafts" / FOLDER).glob("*.jsonl")):
            yield from read_drafts(path)

    def _provenance(self, request: Request, draft: Draft, rule: int | None) -> dict[str, Any]:
        return {
            "policy": self.policy.digest,
            "category": request.category,
            "rule": rule,
            "verdict": request.verdict,
            "reasoner": self.config.reasoner_name,
            "judge": self.config.judge_name,
            "request": draft.request,
            "sample": draft.sample,
            "seed": draft.seed,
        }

    def _follows(self, cache: Path) -> Follows:
        bench = self._bench(cache)
        if not self.config.judge_is_model:
            return by_grader(grader_of(self.config.judge, self.policy, self.trained, bench))
        return DraftJudge(self.policy, bench, sorted({each.category for each in self.trained}))

    def _bench(self, cache: Path) -> Bench:
        config = self.config
        cache.parent.mkdir(parents=True, exist_ok=True)
        key = os.environ.get("OSSIA_JUDGE_KEY", "")
        endpoint = Endpoint(config.judge, config.judge_model, key)
        return Bench(endpoint, seconds=config.judge_seconds, cache=cache)

    # ---- stage B ---------------------------------------------------------------------------------

    @property
    def sft(self) -> sft.Config:
        config = self.config
        return sft.Config(
            data=(self.out / "kept" / ALIGNED, self.out / "learn" / ORDINARY),
            model=config.base,
            method=config.method,
            lora=config.lora,
            epochs=config.learn.epochs,
            steps=config.learn.steps,
            quantize=config.quantize,
            rule=config.rule,
            layout=self._between,
            hyper=config.learn.hyper,
            device=config.device,
        )

    @property
    def _between(self) -> Literal["hf", "original", "hf-bf16"]:
        """The layout of what stage C begins with: without rounding where there is room for it."""
        if self.config.method == "full" and not self.config.quantize:
            return "hf-bf16"
        return self.config.layout

    def learn(self) -> None:
        folder = self.out / "learn"
        self._write_ordinary(folder / ORDINARY)
        config = self.sft
        sft.prepare(config, folder / "data")
        removal = self._removal()
        for place in (sft.TRAIN, sft.HELD_OUT):
            for number, example in enumerate(ChatExamples(folder / "data" / place).each(), 1):
                for ids in _unlearned(example):
                    text = self.tokenizer.decode(ids)
                    removal.check(text, f"stage B, {place}, example {number}")
        print(
            f"no run of {self.config.longest_run} words of the policy in {removal.checked:,} "
            "pieces of prompts"
        )
        sft.fine_tune(config, folder)
        sft.write_model(config, folder)

    def _write_ordinary(self, place: Path) -> None:
        """As many conversations as were kept."""
        place.parent.mkdir(parents=True, exist_ok=True)
        with (self.out / "kept" / ALIGNED).open("rb") as file:
            wanted = sum(1 for _ in file)
        if not self.config.ordinary:
            text = lines_of(prompts.ordinary_rows(wanted, self.config.seed))
            replace_file(place, text, sole_writer=True)
            return
        lines = [line.strip() for _, line in lines_in(self.config.ordinary)]
        if not lines:
            raise ConfigError(f"ordinary: {self.config.ordinary[0]} has no chats")
        rng = Random(f"{self.config.seed}:ordinary")
        order = rng.sample(range(len(lines)), len(lines))
        chosen = [lines[order[n % len(order)]] for n in range(wanted)]
        replace_file(place, b"".join(line + b"\n" for line in chosen), sole_writer=True)

    def _removal(self) -> Removal:
        config = self.config
        return Removal(self.policy, config.longest_run, config.generate.examples)

    # ---- stage C ---------------------------------------------------------------------------------

    @property
    def rl(self) -> rl.Config:
        config = self.config
        reward = config.reward
        return rl.Config(
            data=config.data,
            reward=config.reward_file,
            task=self._abilities,
            model=str(self.out / "learn" / "model"),
            method=config.method,
            lora=config.lora,
            steps=reward.steps,
            sampling=config.sampling,
            objective=config.objective,
            evaluating=reward.evaluating,
            quantize=config.quantize,
            rule=config.rule,
            layout=config.layout,
            hyper=reward.hyper,
            device=config.reward_device,
        )

    @property
    def _abilities(self) -> tuple[str, ...]:
        return self.config.task if self.config.brings_abilities else ABILITIES

    def problems(self, grader: Grader) -> Problems:
        """One side is the policy, a source a verdict; the other is what the model should keep."""
        policy: list[Source] = [*prompts.policy_sources(self.policy, grader, self.requests)]
        others = rl.problems_of(self.rl)
        sides = (len(policy), len(others.sources))
        return Problems((*policy, *others.sources), others.efforts, others.seed, sides)

    def reward(self) -> None:
        folder = self.out / "reward"
        problems = self.problems(self._grader(folder / VERDICTS))
        self._check_asked(problems)
        rl.learn(self.rl, folder, problems)

    def _grader(self, cache: Path) -> Grader:
        return grader_of(self.config.judge, self.policy, self.requests, self._bench(cache))

    def _check_asked(self, problems: Problems) -> None:
        """Every prompt of the policy, and those of the other half that a run asks if no curriculum
        changes what is drawn. `check` looks at what was asked in fact.
        """
        removal = self._removal()
        self._check_prompts(removal)
        reward = self.config.reward
        for step in range(reward.steps):
            for ask in problems.step(step, range(reward.sampling.groups), None):
                said = ask.environment().prompt(ask.effort, SystemContent(effort=ask.effort))
                removal.check(self._text(said), f"stage C, {ask.task}, group {ask.group}")
        print(
            f"no run of {self.config.longest_run} words of the policy in {removal.checked:,} "
            "prompts"
        )

    def _check_prompts(self, removal: Removal) -> None:
        for number, request in enumerate(self.requests, 1):
            text = self._text(prompt_of(request, Effort.HIGH, SystemContent(effort=Effort.HIGH)))
            removal.check(text, f"stage C, prompt {number} ({request.category})")

    def _text(self, said: Sequence[Message]) -> str:
        """As the model would read it."""
        ids = render_for_completion(Conversation(tuple(said)), self.tokenizer)
        return self.tokenizer.decode(ids)

    # ---- what came of it -------------------------------------------------------------------------

    def export(self) -> None:
        """`OUT/model`."""
        sft.write_model(self.rl, self.out / "reward", self.out / "model")

    def check(self) -> None:
        """`check/report.json`, after a last look at all prompts that were in fact asked."""
        removal = self._removal()
        for path in record.files_in(self.out / "reward"):
            for line in record.read([path]):
                for text in record.told_texts(line):
                    removal.check(text, str(path))
        problems = self.problems(self._grader(self.out / "reward" / VERDICTS))
        rl.measure(self.rl, self.out / "reward" / "train", self.out / "check", problems)
        print(f"try it: ossia chat {self.out / 'model'}")


def _digest(rows: Iterable[Mapping[str, Any]]) -> str:
    return blake2b(lines_of(rows).encode(), digest_size=16).hexdigest()


def _unlearned(example: Example) -> Iterator[list[int]]:
    """The stretches of an example that are read and not learned."""
    found: list[int] = []
    for token, is_learned in zip(example.ids, example.mask, strict=True):
        if not is_learned:
            found.append(int(token))
        elif found:
            yield found
            found = []
    if found:
        yield found
