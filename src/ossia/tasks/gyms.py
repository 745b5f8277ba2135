"""Environments of other libraries: reasoning-gym's data sets and verifiers' tasksets.

    task = reasoning_gym_task("leg_counting", size=500, seed=1)
    task = verifiers_task("my_taskset", 500)

Both libraries are extras (`gyms`, `verifiers`) and imported only here, when they are asked for.
Knows their ways of asking and scoring; an answer is still all that they are shown.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import islice
from typing import Any

from ossia.errors import DataError
from ossia.harmony import Effort, Message, SystemContent
from ossia.tasks.environment import Outcome, Reward, as_reward
from ossia.tasks.external import ExternalTask, RowEnvironment
from ossia.tools.protocol import Tool

Row = Mapping[str, Any]


OVER_HARMONY = (
    "; it brings openai-harmony, which takes the place of oss-harmony: put that back with "
    "pip install --force-reinstall --no-deps oss-harmony==0.0.11"
)


def imported(name: str, extra: str, note: str = "") -> Any:
    """Raises `DataError` that names the extra, if it is not installed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = name.split(".")[0].replace("_", "-")
        raise DataError(
            f"this task needs {package}, which is not installed: pip install 'ossia[{extra}]'{note}"
        ) from error


# ---- reasoning-gym -------------------------------------------------------------------------------


def reasoning_gym_task(name: str, size: int = 500, seed: int = 0, **config: Any) -> ExternalTask:
    """A data set of reasoning-gym; `config` is its own. Raises `DataError` for an unknown name, or
    a config that it refuses.
    """
    gym = imported("reasoning_gym", "gyms")
    try:
        data = gym.create_dataset(name, size=size, seed=seed, **config)
    except (ValueError, TypeError, AssertionError) as error:
        raise DataError(f"reasoning-gym refuses the data set {name!r}: {error}") from error
    rows = []
    for number in range(size):
        entry = data[number]
        rows.append({"prompt": entry["question"], "answer": entry["answer"], "entry": entry})
    return ExternalTask(name, tuple(rows), partial(_Gym, data.score_answer))


@dataclass(frozen=True)
class _Gym:
    """An entry, graded by its data set. A share of the points is no right answer."""

    score: Callable[[str, Any], Any]
    row: Row
    tools: tuple[Tool, ...] = ()

    def prompt(self, effort: Effort, system: SystemContent | None = None) -> tuple[Message, ...]:
        return self._asked.prompt(effort, system)

    def next(self, outcome: Outcome) -> None:
        return None

    def reward(self, outcome: Outcome) -> Reward:
        return as_reward(float(self.score(outcome.final.strip(), self.row["entry"])))

    def gold(self, effort: Effort) -> tuple[Message, ...] | None:
        return self._asked.gold(effort)

    @property
    def _asked(self) -> RowEnvironment:
        return RowEnvironment(self.row, lambda row, outcome: None)


# ---- verifiers -----------------------------------------------------------------------------------


def verifiers_task(taskset: Any, count: int = 500) -> ExternalTask:
    """The first tasks of a taskset of verifiers (`verifiers.v1`), one that is installed by its id,
    or an object. Raises `DataError` for what cannot be asked here: tasks with tool servers, or
    rewards that look at a container.
    """
    verifiers = imported("verifiers.v1", "verifiers", OVER_HARMONY)
    if isinstance(taskset, str):
        loaders = imported("verifiers.v1.utils.loaders", "verifiers", OVER_HARMONY)
        try:
            config = loaders.taskset_config_type(taskset)(id=taskset)
            taskset = loaders.load_taskset(config)
        except (ImportError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"verifiers has no taskset {taskset!r}: {error}") from error
    name = type(taskset).__name__
    rows = []
    for task in islice(taskset, count):
        _check_verifiers_task(name, task)
        rows.append({"prompt": _prompt_of(name, task.data), "task": task})
    if not rows:
        raise DataError(f"the taskset {name} has no tasks")
    return ExternalTask(name, tuple(rows), partial(_Verified, verifiers))


@dataclass(frozen=True)
class _Verified:
    """A task of verifiers, graded by its own rewards, which are shown prompt and final answer."""

    verifiers: Any
    row: Row
    tools: tuple[Tool, ...] = ()

    def prompt(self, effort: Effort, system: SystemContent | None = None) -> tuple[Message, ...]:
        asked = RowEnvironment(self.row, lambda row, outcome: None)
        return asked.prompt(effort, system)

    def next(self, outcome: Outcome) -> None:
        return None

    def reward(self, outcome: Outcome) -> Reward:
        task = self.row["task"]
        trace = self._trace(outcome)
        asyncio.run(task.score(trace))
        parts = {}
        for name, given in trace.rewards.items():
            if given is None:
                return Reward(None, why=f"{name} was not scored")
            parts[name] = given.value
        if not parts:
            return Reward(None, why="the task has no rewards")
        whole = as_reward(float(trace.reward))
        return Reward(whole.value, parts, whole.correct)

    def gold(self, effort: Effort) -> None:
        return None

    def _trace(self, outcome: Outcome) -> Any:
        vf = self.verifiers
        task = self.row["task"]
        said = [*self.row["prompt"], {"role": "assistant", "content": outcome.final}]
        nodes = []
        for number, message in enumerate(said):
            parent = number - 1 if number else None
            is_answer = number == len(said) - 1
            nodes.append(vf.MessageNode(parent=parent, message=message, sampled=is_answer))
        return vf.Trace(
            task=vf.TraceTask(type=type(task).__name__, data=task.data),
            agent=vf.AgentInfo(config=vf.AgentConfig()),
            nodes=nodes,
            is_completed=True,
            ok=outcome.reason == "stop",
        )


def _prompt_of(name: str, data: Any) -> list[dict[str, str]]:
    """The task's messages as a chat's."""
    given = data.prompt
    if given is None:
        raise DataError(f"the taskset {name} has a task without a prompt: nobody opens it here")
    messages = [] if data.system_prompt is None else [_chat("system", data.system_prompt)]
    if isinstance(given, str):
        return [*messages, _chat("user", given)]
    for message in given:
        if not isinstance(message.content, str):
            raise DataError(f"the taskset {name} has a prompt with more than text in it")
        messages.append(_chat(message.role, message.content))
    return messages


def _chat(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _check_verifiers_task(name: str, task: Any) -> None:
    if task.NEEDS_CONTAINER or task.toolsets(task.config):
        raise DataError(
            f"the taskset {name} needs a container or tool servers, which verifiers runs itself; "
            "serve the model (`ossia serve`) and run the taskset with verifiers against it"
        )
    for reward in task.hooks("reward"):
        runtime = inspect.signature(reward).parameters.get("runtime")
        if runtime is not None and runtime.default is inspect.Parameter.empty:
            raise DataError(
                f"the reward {reward.__name__} of the taskset {name} looks at a container, which "
                "there is none of here"
            )
