"""What is asked and measured, what samples are worth, and what alarms say; no model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rl_runs import config_of

from ossia.errors import ConfigError, DataError, TrainingError
from ossia.harmony import Effort
from ossia.hub import find
from ossia.tasks.effort import PRICES, Price, Prices
from ossia.tasks.environment import Ask, Counts, Given, Outcome, Reason, Reward
from ossia.tasks.external import ExternalTask, RowEnvironment, compare, read_task
from ossia.tokenizer import Tokenizer
from ossia.train.rl import fit
from ossia.train.rl.asks import Problems, Rows
from ossia.train.rl.curriculum import Curriculum
from ossia.train.rl.evaluate import evaluate
from ossia.train.rl.health import Alarms, numbers, stop_if_broken
from ossia.train.rl.policy import Policy
from ossia.train.rl.settings import Evaluating, Objective, Sampling
from ossia.train.rl.worth import lessons, progress, valued
from ossia.turn.record import Piece, Segment
from ossia.turn.rollout import Sample

BOUND = Price(16, 24, 0.6)
SEGMENT = Segment((1,), (Piece((2, 3), (-0.5, -0.5)),))


def rows(count: int, name: str = "mine") -> Rows:
    found = tuple({"prompt": f"Question {n}?", "answer": n} for n in range(count))
    return Rows(ExternalTask(name, found, lambda row: RowEnvironment(row, compare)))


def sample(reward: float | None, reason: Reason = "stop", analysis: int = 0) -> Sample:
    correct = None if reward is None else reward == 1.0
    outcome = Outcome("x", (), reason, Counts(sampled=2, analysis=analysis))
    given = Reward(reward, correct=correct)
    return Sample(0, 0, 0, Effort.LOW, (SEGMENT,), outcome, given)


def measured(samples: list[Sample], settings: Objective | None = None) -> dict[str, float]:
    ask = Ask(lambda: Given.__new__(Given), Effort.LOW, task="mine")
    return numbers([ask], [valued(samples, settings or Objective(), PRICES)])


def prompts_of(asks: list[Ask]) -> list[str]:
    return [ask.environment().prompt(Effort.LOW)[-1].text for ask in asks]


# ---- what is asked ----


def test_rows_that_cannot_be_asked_are_named_before_the_first_step(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(find("nano"))
    short = {"prompt": "What is 2 + 3?", "answer": 5}
    task = rows(0).task
    fit.check(replace(task, rows=(short,) * 3), tokenizer, 2048)
    long = {"prompt": "word " * 3000, "answer": 5}
    with pytest.raises(DataError, match=r"row 2: its prompt has 3,\d+ tokens.* holds 2,048"):
        fit.check(replace(task, rows=(short, long)), tokenizer, 2048)
    path = tmp_path / "reward.py"
    for code, said in {
        "tools = [5]": "`tools` are functions",
        "def environment(row):\n    return row['size']": "KeyError: 'size'",
        "def tools(row):\n    return [row.name]": "AttributeError",
    }.items():
        made = "def rows():\n    return [{'prompt': '?'}]\n\n\n"
        made += "def reward(row, outcome):\n    return 1\n\n\n"
        path.write_text(f"{made}{code}\n")
        with pytest.raises(DataError, match=f"row 1 cannot be asked: {said}"):
            fit.check(read_task(code=path), tokenizer, 2048)


def test_held_out_rows_are_asked_once_and_in_order() -> None:
    efforts = (Effort.LOW, Effort.HIGH)
    problems = Problems((rows(40),), efforts, seed=0)
    found = prompts_of(problems.held_out(16))
    assert found == [f"Question {n}?" for n in (9, 19, 29, 39)] * 2
    assert prompts_of(problems.held_out(2)) == ["Question 9?", "Question 19?"] * 2
    assert not problems.warnings()


def test_a_copy_of_a_held_out_row_is_not_trained_on() -> None:
    """Else what is measured was learned by heart."""
    base = rows(40)
    copies = tuple(dict(row, about={"copy": True}) for row in base.task.rows)
    source = Rows(replace(base.task, rows=base.task.rows + copies))
    assert list(source.measured) == [9, 19, 29, 39]
    assert list(source.trained) == [n for n in range(80) if n % 10 != 9]
    few = Rows(replace(base.task, rows=base.task.rows[:3] * 10))
    assert few.has_too_few and len(few.measured) == 30


def test_too_few_rows_to_hold_any_out_are_said() -> None:
    problems = Problems((rows(19),), (Effort.LOW,), seed=0)
    assert len(problems.held_out(50)) == 19
    (warning,) = problems.warnings()
    assert "fewer than 20 rows" in warning


def test_tasks_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two tasks are called mine"):
        Problems((rows(3), rows(4)), (Effort.LOW,), seed=0)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("objective.kl=nan", "objective.kl must be float, found 'nan'"),
        ("sampling.temperature=0", "temperature must be above 0"),
        ("sampling.temperature=inf", "temperature must be float, found 'inf'"),
        ("sampling.seconds=0", "seconds must be above 0"),
        ("sampling.efforts=low,high,low", "names an effort twice"),
        ("hyper.tokens_per_step=1024", "hyper.tokens_per_step has no effect"),
        ("hyper.longest=77", "hyper.longest has no effect"),
        ("actors.threads=2", "have no effect without actors"),
        ("lora.rank=4", r"lora.\* has no effect on method=full"),
        ("quantize=true;layout=hf-bf16", "MXFP4, which layout=hf-bf16 does not store"),
    ],
)
def test_settings_without_sense(setting: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(Path("nowhere"), *setting.split(";"))


def test_what_is_asked_is_part_of_a_run() -> None:
    sampling = Sampling()
    one = Policy(Objective(), sampling, asked={"task": ["state"]}).identity()
    other = Policy(Objective(), sampling, asked={"task": ["lookup"]}).identity()
    assert one != other
    assert one["task"] == ["state"]


# ---- what samples are worth ----


def test_what_broke_teaches_nothing_whoever_teaches() -> None:
    group = [sample(None, "failed"), sample(None), sample(1.0)]
    taught = valued(group, Objective(distill="full"), None)
    assert [each.advantage for each in taught] == [None, 0.0, 0.0]
    assert len(lessons([taught])[0]) == 2


def test_cut_answers_are_not_learned_from_unless_it_is_said() -> None:
    group = [sample(0.0, "length"), sample(1.0), sample(0.0)]
    assert valued(group, Objective(), None)[0].advantage is None
    assert valued(group, Objective(mask_cut=False), None)[0].advantage == pytest.approx(-1 / 3)


def test_groups_without_a_right_answer_teach_to_stay_within_the_bound_where_it_costs() -> None:
    """Nobody is right: three keep to the bound, one does not."""
    lengths = (4, 20, 24, 90)
    group = [sample(0.0, analysis=length) for length in lengths]
    assert [each.advantage for each in valued(group, Objective(), Prices(low=BOUND))] == [None] * 4
    costly = Prices(low=replace(BOUND, over=0.5))
    found = [each.advantage for each in valued(group, Objective(), costly)]
    assert found == [0.125, 0.125, 0.125, -0.375]


def test_the_curriculum_follows_what_is_paid() -> None:
    prices = Prices(low=replace(BOUND, over=0.5))
    long = sample(1.0, analysis=25)
    assert [progress(sample(1.0, analysis=n), prices) for n in (0, 8, 24)] == [1.0, 0.7, 0.4]
    assert progress(long, prices) == 0.0  # not less: an arm is at its beginning
    assert progress(long, None) == 1.0
    assert progress(sample(0.0), prices) == progress(sample(0.0), None) == 0.0
    assert progress(sample(None), prices) is None
    # worth more than 1 to its author, and no more than right to the curriculum
    dear = replace(long, reward=Reward(5.0, correct=True))
    assert progress(dear, None) == 1.0


def test_arms_that_are_right_and_never_paid_are_asked_seldom() -> None:
    always = Curriculum(["mine/low"])
    always.learn("mine/low", progress(sample(1.0, analysis=25), PRICES) or 0.0)
    assert always.weight("mine/low") == 1.0  # 0.53 of what it could be
    never = Curriculum(["mine/low"])
    never.learn("mine/low", progress(sample(1.0, analysis=49), PRICES) or 0.0)
    assert never.weight("mine/low") == 0.1


def test_rewards_below_0_and_maxrl_do_not_go_together() -> None:
    settings = ("objective.advantage=maxrl", "sampling.prices.low.over=0.5")
    with pytest.raises(ConfigError, match="leave over at 0"):
        config_of(Path("nowhere"), *settings)
    config_of(Path("nowhere"), *settings, "sampling.price=false")


def test_a_reference_that_is_replaced_is_of_one_process() -> None:
    settings = ("objective.kl=0.01", "objective.refresh=2")
    config_of(Path("nowhere"), *settings)
    with pytest.raises(ConfigError, match=r"leave it, or parallel"):
        config_of(Path("nowhere"), *settings, "parallel.fsdp=2")


# ---- alarms ----


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("length", r"raise sampling\.max_tokens$"),
        ("budget", r"sampling\.turns"),
        ("context", "context was full"),
        ("tool_rounds", "kept calling tools"),
    ],
)
def test_an_alarm_says_what_helps(reason: Reason, said: str) -> None:
    other: Reason = "tool_rounds" if reason == "length" else "length"
    found = measured([sample(0.0, reason), sample(0.0, reason), sample(0.0, other)])
    alarms = Alarms()
    alarms.look(0, found)
    alarms.look(1, found)
    with pytest.raises(TrainingError, match=said):
        alarms.look(2, found)


def test_right_answers_that_are_worth_nothing_name_the_prices() -> None:
    """Everything is right, so it would look as if all were well."""
    found = measured([sample(1.0, analysis=PRICES.low.most + 1)] * 3)
    assert (found["all_right"], found["reward"], found["unpaid"]) == (1, 0, 1)
    alarms = Alarms()
    for step in range(4):
        assert not alarms.look(step, found)
    with pytest.raises(TrainingError, match=r"sampling\.prices, or set sampling\.price=false"):
        alarms.look(4, found)
    assert measured([sample(0.0)] * 2)["unpaid"] == 0


def test_a_reward_that_always_raises_stops_the_run() -> None:
    """A verdict that is None is none of these: a judge may be back in a minute."""
    broken = replace(sample(None), reward=Reward(None, why="the reward raised KeyError: 'answr'"))
    group = valued([broken, broken], Objective(), PRICES)
    with pytest.raises(TrainingError, match=r"step 3: none .* KeyError: 'answr'.* --fresh"):
        stop_if_broken(3, [group])
    stop_if_broken(3, [group, valued([sample(0.0), broken], Objective(), PRICES)])
    stop_if_broken(3, [valued([sample(None)] * 2, Objective(), PRICES)])


def test_an_evaluation_counts_as_cut_what_would_have_gone_on(tmp_path: Path) -> None:
    class Drawn:
        leads = True

        def draw(self, asks: list[Ask], samples: int, version: int) -> list[list[Sample]]:
            cut = sample(0.0, "tool_rounds")
            broken = sample(None, "failed")
            return [[cut, replace(cut), sample(0.0, "invalid"), broken] for _ in asks]

    problems = Problems((rows(20),), (Effort.LOW,), seed=0)
    found = evaluate(Drawn(), problems, Evaluating(), tmp_path, 0, 0)  # type: ignore[arg-type]
    assert found["arms"]["mine/low"]["cut"] == 0.5
