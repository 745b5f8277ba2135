"""What aligning a model is, in numbers and names: every switch of it, as frozen dataclasses. No
tensors, no files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ossia.errors import ConfigError
from ossia.harmony import Effort
from ossia.judges import TRIES
from ossia.mxfp4 import ScaleRule
from ossia.remote import LONGEST_PAUSE
from ossia.tasks.safety.policy_texts import BUILT_IN
from ossia.train.align.costs import Costs
from ossia.train.align.generate import Generating
from ossia.train.align.grading import PROGRAM, is_file
from ossia.train.align.removal import RUN
from ossia.train.recipes import sft
from ossia.train.rl.settings import HYPER, Evaluating, Objective, Sampling
from ossia.train.settings import Device, Hyperparameters, Lora

NANO = "nano"
URLS = ("http://", "https://")
KL = 1e-2  # where a model judges: it can be pleased by more than following the policy
REFRESH = 20  # steps


@dataclass(frozen=True)
class Learning:
    """Stage B: fine-tuning, as `ossia train sft` does it."""

    epochs: float = 3.0
    steps: int | None = None  # instead of epochs
    hyper: Hyperparameters = sft.HYPER


@dataclass(frozen=True)
class Rewarding:
    """Stage C: reinforcement learning, as `ossia train rl` does it."""

    steps: int = 40
    kl: float | None = None  # none: 0.01 if a model judges, else 0
    refresh: int | None = None  # steps; none: 20 if a model judges, else never
    sampling: Sampling = Sampling(price=False)  # noqa: RUF009 - frozen
    objective: Objective = Objective()  # noqa: RUF009 - frozen
    evaluating: Evaluating = Evaluating()  # noqa: RUF009 - frozen
    hyper: Hyperparameters = HYPER

    def __post_init__(self) -> None:
        if self.objective.kl or self.objective.refresh:
            raise ConfigError("set reward.kl and reward.refresh, not those of reward.objective")


@dataclass(frozen=True)
class Config:
    """What `key=value` can set."""

    spec: str = BUILT_IN  # a policy's file (docs/alignment.md), or the built-in one about moonglow
    prompts: Path | None = None  # a prompt a line, with its category; none: the built-in ones
    made: int = 400  # of the built-in prompts, how many
    base: str = NANO  # to start from: nano, gpt-oss-20b, a folder, or a Hugging Face id
    judge: str = PROGRAM  # program, a Python file with reward(row, outcome), or a server's URL
    judge_model: str = "gpt-oss-120b"  # of that server; its key is OSSIA_JUDGE_KEY
    judge_seconds: float = 600.0  # that a verdict may take
    # who drafts: none for the base itself, another model, or a server's URL
    reasoner: str | None = None
    reasoner_model: str = "gpt-oss-120b"  # of that server; its key is OSSIA_REASONER_KEY
    # half of stage B: files of ordinary chats; for nano, none are conversations of its own tasks
    ordinary: tuple[Path, ...] = ()
    # half of stage C, as `ossia train rl` takes them; for nano, none are its own tasks
    task: tuple[str, ...] = ()
    data: Path | None = None
    reward_file: Path | None = None
    # that the kept answers are learned at, in turn
    efforts: tuple[Effort, ...] = (Effort.LOW, Effort.MEDIUM, Effort.HIGH)
    longest_run: int = RUN  # words of the policy that a prompt may not hold in a row
    method: Literal["lora", "full"] = "lora"
    lora: Lora = Lora()  # noqa: RUF009 - frozen
    generate: Generating = Generating()  # noqa: RUF009 - frozen
    learn: Learning = Learning()
    reward: Rewarding = Rewarding()
    costs: Costs = Costs()  # noqa: RUF009 - frozen
    quantize: bool = False  # train the experts as they will be stored in MXFP4
    rule: ScaleRule = "rceil"  # for the scales of MXFP4
    layout: Literal["hf", "original", "hf-bf16"] = "hf"  # of the checkpoint that is written
    seed: int = 0
    # to learn on; auto: a GPU where there is one, but for rewards that are sampled by exact
    device: Device = "auto"

    def __post_init__(self) -> None:
        if self.made < 1 or self.longest_run < 2:
            raise ConfigError("made must be 1 or more, longest_run 2 or more")
        if (self.spec == BUILT_IN) != (self.prompts is None):
            raise ConfigError(
                "spec=FILE needs prompts=FILE, prompts under that policy, and the built-in policy "
                "brings its own: give both or none"
            )
        if self.judge_is_model and not self.judge.startswith(URLS):
            raise ConfigError(
                "judge must be program, a Python file whose name ends in .py, or a server's URL "
                f"that begins with http:// or https://, found {self.judge!r}"
            )
        if self.base == NANO:
            return
        if not self.ordinary:
            raise ConfigError(
                "say what half of stage B is: ordinary=FILE, chats as they should stay, or the "
                "model forgets everything but the policy"
            )
        if not self.brings_abilities:
            raise ConfigError(
                "say what the other half of stage C is: task=NAME, data=FILE or reward_file=FILE, "
                "as for `ossia train rl`"
            )

    @property
    def judge_is_model(self) -> bool:
        return self.judge != PROGRAM and not is_file(self.judge)

    @property
    def drafts_remotely(self) -> bool:
        return self.reasoner is not None and self.reasoner.startswith(URLS)

    @property
    def reasoner_name(self) -> str:
        return self.reasoner_model if self.drafts_remotely else self.reasoner or self.base

    @property
    def judge_name(self) -> str:
        return self.judge_model if self.judge_is_model else self.judge

    @property
    def brings_abilities(self) -> bool:
        """Whether it says what the other half of stage C is."""
        return bool(self.task) or self.data is not None or self.reward_file is not None

    @property
    def reward_device(self) -> Device:
        """Of stage C: what samples exactly is not for a GPU."""
        return "cpu" if self.sampling.sampler == "exact" else self.device

    @property
    def objective(self) -> Objective:
        """Of stage C."""
        kl = self.reward.kl
        refresh = self.reward.refresh
        if kl is None:
            kl = KL if self.judge_is_model else 0.0
        if refresh is None:
            refresh = REFRESH if self.judge_is_model and kl else 0
        return replace(self.reward.objective, kl=kl, refresh=refresh)

    @property
    def sampling(self) -> Sampling:
        """Of stage C, with time for all that a judge may try."""
        found = self.reward.sampling
        if not self.judge_is_model:
            return found
        longest = TRIES * (self.judge_seconds + LONGEST_PAUSE)
        return replace(found, seconds=max(found.seconds, longest))
