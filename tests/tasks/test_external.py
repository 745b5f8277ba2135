"""A user's own tasks: rows, a reward, tools, environments of other libraries."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from ossia.errors import DataError
from ossia.harmony import DeveloperContent, Effort, Role, SystemContent
from ossia.tasks.environment import Outcome, Reward, as_reward, graded
from ossia.tasks.external import read_rows, read_task
from ossia.tasks.gyms import reasoning_gym_task, verifiers_task
from ossia.tasks.problem import Call
from ossia.tasks.replay import gold_reward

SYSTEM = SystemContent(effort=Effort.LOW)


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_with_answers_need_no_code(tmp_path: Path) -> None:
    rows = written(
        tmp_path / "sums.jsonl",
        '\ufeff{"prompt": "What is 2 + 2?", "answer": 4, "about": {"size": 1}}\n\n'
        '{"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": '
        '"Capital of France?"}], "answer": ["Paris", "paris, France"]}\n',
    )
    task = read_task(rows)
    assert task.name == "sums" and len(task.rows) == 2
    ask = task.ask(0, Effort.LOW, group=3, seed=8)
    assert (ask.task, ask.arm, ask.about, ask.seed) == ("sums", "sums/low", {"size": 1}, 8)
    first = ask.environment()
    assert first.prompt(Effort.LOW, SYSTEM)[0].role is Role.SYSTEM
    assert graded(first, Outcome("2 + 2 = 4.")).value == 1.0
    for wrong in ("", "5", "3, 4 or 5 is it, and then 6", "It is four"):
        assert graded(first, Outcome(wrong)).value == 0.0
    second = task.ask(3, Effort.HIGH).environment()  # they begin again
    assert graded(second, Outcome("The capital is Paris.")).correct
    assert not graded(second, Outcome("Paris or Rome")).correct
    gold = second.gold(Effort.LOW)
    assert gold is not None and graded(second, Outcome.of(gold)).value == 1.0


def test_the_examples_of_the_docs(tmp_path: Path) -> None:
    """What docs/tasks.md shows runs as it stands."""
    text = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    (rows,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    code, _gym, from_python = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    task = read_task(written(tmp_path / "sums.jsonl", rows))
    assert [len(task.rows), *task.rows[1]["about"]] == [3, "kind"]
    for number in range(3):
        reward = gold_reward(task.ask(number, Effort.LOW).environment, Effort.LOW)
        assert reward is not None and reward.value == 1.0
    own = read_task(code=written(tmp_path / "reward.py", code)).ask(0, Effort.LOW).environment()
    looked_up = (Call("lookup", '{"city": "Oslo"}', "Norway"),)
    assert graded(own, Outcome("Oslo is in Norway.", looked_up)).value == 1.0
    assert graded(own, Outcome("Oslo is in Norway.")).value == 0.0
    assert graded(own, Outcome("Norway, Italy, France " * 9, looked_up)).value == 0.0
    found: dict[str, Any] = {}
    exec(from_python.replace('"sums.jsonl"', repr(str(tmp_path / "sums.jsonl"))), found)
    assert found["ask"].task == "sums"


def test_a_reward_of_ones_own(tmp_path: Path) -> None:
    code = written(
        tmp_path / "reward.py",
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Kept:\n"
        "    seen: int = 0\n"
        "def lookup(name: str) -> str:\n"
        "    return 'red'\n"
        "tools = [lookup]\n"
        "def rows():\n"
        "    for n in range(3):\n"
        "        yield {'prompt': f'Colour of {n}?', 'colour': 'red', 'instructions': 'Look up.'}\n"
        "def reward(row, outcome):\n"
        "    used = any(call.name == 'lookup' for call in outcome.calls)\n"
        "    return 0.5 * used + 0.5 * (row['colour'] in outcome.final)\n",
    )
    task = read_task(code=code)
    environment = task.ask(1, Effort.LOW).environment()
    (tool,) = environment.tools
    assert tool.namespace.tools[0].name == "lookup"
    _, developer, user = environment.prompt(Effort.LOW, SYSTEM)
    assert isinstance(developer.content, DeveloperContent)
    assert developer.content.instructions == "Look up." and user.text == "Colour of 1?"
    assert graded(environment, Outcome("red")) == Reward(0.5, {"reward": 0.5}, False)
    assert environment.gold(Effort.LOW) is None


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("reward = 5\n", "write `def reward.*reward is 5"),
        ("async def reward(row, outcome):\n    return 1\n", "without async"),
        ("def reward(outcome):\n    return 1\n", "two are given, .*too many"),
    ],
)
def test_a_reward_that_cannot_be_called_is_refused(tmp_path: Path, code: str, said: str) -> None:
    made = "def rows():\n    return [{'prompt': '?'}]\n\n\n"
    with pytest.raises(DataError, match=said):
        read_task(code=written(tmp_path / "reward.py", made + code))


def test_a_whole_task(tmp_path: Path) -> None:
    """As the adapters to other libraries make them."""
    rows = written(tmp_path / "sums.jsonl", '{"prompt": "1 + 1?", "answer": 2}\n')
    lines = ["from pathlib import Path", "from ossia.tasks.external import read_task"]
    lines += [f"task = read_task(Path({str(rows)!r}))", ""]
    code = written(tmp_path / "whole.py", "\n".join(lines))
    task = read_task(code=code)
    assert task.name == "sums" and len(task.rows) == 1
    with pytest.raises(DataError, match="leave out"):
        read_task(rows, code)


def test_an_environment_of_ones_own(tmp_path: Path) -> None:
    rows = written(tmp_path / "rows.jsonl", '{"prompt": "x"}\n')
    code = written(
        tmp_path / "game.py",
        "from ossia.tasks.external import RowEnvironment\n"
        "def environment(row):\n"
        "    return RowEnvironment(row, lambda row, outcome: outcome.final == row['prompt'])\n",
    )
    task = read_task(rows, code)
    assert graded(task.ask(0, Effort.LOW).environment(), Outcome("x")).correct


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"line 2 is not JSON"),
        ("[" * 100_000, r"line 2 is not JSON"),
        ("3", r"line 2 is not an object"),
        ('{"question": "x"}', r"line 2 has no text under 'prompt' \(it has 'question'\)"),
        ('{"prompt": "  "}', r"line 2 has no text under 'prompt'"),
        ('{"prompt": [], "answer": 1}', r"line 2: the last message of 'prompt' must be the user"),
        ('{"prompt": [{"role": "x", "content": "y"}]}', r"line 2: 'prompt' is no list of chat"),
        ('{"prompt": [3]}', r"line 2: 'prompt' is no list of chat"),
        ('{"prompt": "x", "answer": {}}', r"line 2: 'answer' must be a text, a number or a list"),
        ('{"prompt": "x", "answer": []}', r"line 2: 'answer' must be"),
        ('{"prompt": "x", "answer": true}', r"line 2: 'answer' must be"),
        ('{"prompt": "x", "instructions": 3}', r"line 2: 'instructions' must be a text"),
        ('{"prompt": "x", "about": [1]}', r"line 2: 'about' must be an object"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, said: str) -> None:
    rows = written(tmp_path / "rows.jsonl", f'{{"prompt": "x", "answer": 1}}\n{line}\n')
    with pytest.raises(DataError, match=said):
        read_rows(rows)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def reward(row, outcome:\n", r"reward.py cannot be loaded: line 1: SyntaxError"),
        ("x = 1\ny = x / 0\n", r"cannot be loaded: line 2: ZeroDivisionError"),
        ("x = 1\n", r"defines neither reward\(row, outcome\) nor environment\(row\)"),
    ],
)
def test_bad_code_is_named(tmp_path: Path, code: str, said: str) -> None:
    rows = written(tmp_path / "rows.jsonl", '{"prompt": "x"}\n')
    with pytest.raises(DataError, match=said):
        read_task(rows, written(tmp_path / "reward.py", code))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys\nsys.exit(3)\n", "cannot be loaded: line 2: SystemExit: 3"),
        ("def rows():\n    return 1 / 0\n", r"rows\(\) must give a list.*line 2: ZeroDivision"),
        ("def rows():\n    return 5\n", r"rows\(\) must give a list of rows.*not iterable"),
        ("def rows():\n    yield {}['x']\n", r"rows\(\) must give a list.*line 2: KeyError"),
        ("rows = 5\n", r"rows\(\) must give a list of rows.*not callable"),
    ],
)
def test_rows_that_cannot_be_made_are_named(tmp_path: Path, code: str, said: str) -> None:
    code += "def reward(row, outcome):\n    return 1\n"
    with pytest.raises(DataError, match=said):
        read_task(code=written(tmp_path / "reward.py", code))


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    rows = written(tmp_path / "rows.jsonl", '{"prompt": "x", "answer": 1}\n{"prompt": "y"}\n')
    with pytest.raises(DataError, match="row 2 has no 'answer'"):
        read_task(rows)
    with pytest.raises(DataError, match="needs a JSONL file"):
        read_task()
    with pytest.raises(DataError, match="has no rows"):
        read_task(written(tmp_path / "none.jsonl", "\n\n"))
    with pytest.raises(DataError, match="cannot be read"):
        read_task(tmp_path / "missing.jsonl")
    with pytest.raises(DataError, match="is not a Python file"):
        read_task(rows, tmp_path / "missing.py")
    code = written(tmp_path / "reward.py", "def reward(row, outcome):\n    return 1\n")
    with pytest.raises(DataError, match=r"defines no rows\(\)"):
        read_task(code=code)


def test_what_a_reward_may_be() -> None:
    assert as_reward(True) == Reward(1.0, {"right": 1.0}, True)
    assert as_reward(0.25) == Reward(0.25, {"reward": 0.25}, False)
    assert as_reward(None).value is None
    for wrong in ("good", [1], float("nan"), float("inf")):
        with pytest.raises(DataError):
            as_reward(wrong)


@pytest.mark.parametrize(
    ("make", "extra"), [(reasoning_gym_task, "gyms"), (verifiers_task, "verifiers")]
)
def test_what_is_not_installed_is_named(
    make: Any, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    monkeypatch.setitem(sys.modules, "verifiers.v1", None)
    with pytest.raises(DataError, match=rf"is not installed: pip install 'ossia\[{extra}\]'"):
        make("leg_counting")


def test_a_data_set_of_reasoning_gym() -> None:
    pytest.importorskip("reasoning_gym", reason="the extra gyms is not installed")
    task = reasoning_gym_task("leg_counting", size=20, seed=1)
    for number in range(20):
        environment = task.ask(number, Effort.LOW).environment()
        gold = environment.gold(Effort.LOW)
        assert gold is not None and graded(environment, Outcome.of(gold)).correct
        assert graded(environment, Outcome("")).value == 0.0
    with pytest.raises(DataError, match="refuses the data set 'nothing'"):
        reasoning_gym_task("nothing")


def test_a_taskset_of_verifiers() -> None:
    vf = pytest.importorskip("verifiers.v1", reason="the extra verifiers is not installed")

    class Sum(vf.Task):  # type: ignore[misc, name-defined]
        @vf.reward(weight=2.0)
        async def right(self, trace: Any) -> float:
            return float(trace.last_reply == "4")

    class Sums(vf.Taskset):  # type: ignore[misc, name-defined]
        def load(self) -> Any:
            yield Sum(vf.TaskData(prompt="What is 2 + 2?", system_prompt="Be brief."))

    task = verifiers_task(Sums(vf.TasksetConfig(id="sums")))
    environment = task.ask(0, Effort.LOW).environment()
    *_, user = environment.prompt(Effort.LOW, SYSTEM)
    assert user.text == "What is 2 + 2?"
    assert graded(environment, Outcome("4")) == Reward(2.0, {"right": 2.0}, True)
    assert graded(environment, Outcome("5")) == Reward(0.0, {"right": 0.0}, False)
    with pytest.raises(DataError, match="has no taskset 'nothing at all'"):
        verifiers_task("nothing at all")
