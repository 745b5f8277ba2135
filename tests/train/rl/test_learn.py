"""Runs on a model of four answers: it learns the right one, and nothing where there is nothing to
learn; what is interrupted is done again to the same bytes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rl_runs import config_of, files_of, learned, log_of, task

from ossia.errors import ConfigError, DataError, TrainingError
from ossia.kernels import cpu, not_compiled, use_threads
from ossia.model import Transformer
from ossia.train.recipes import rl
from ossia.train.rl.asks import own

STEPS = ("steps=14", "sampling.samples=16", "save_every=100", "hyper.peak_lr=3e-3")


def same_bits(a: Transformer, b: Transformer) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())


def share_right(out: Path) -> float:
    """In the last steps."""
    last = log_of(out)[-3:]
    return sum(line["correct"] for line in last) / len(last)


# ---- what is learned ----


def test_the_rewarded_answer_is_learned(four: Path, tmp_path: Path) -> None:
    learned(config_of(four, f"data={task(tmp_path, 'gold')}", *STEPS), tmp_path)
    log = log_of(tmp_path)
    assert log[0]["correct"] < 0.6
    assert share_right(tmp_path) >= 0.95
    assert all(line["mismatch_largest"] == 0 for line in log if "mismatch_largest" in line)
    assert all(line["rechecked"] > 0 for line in log)


LOSSES = ["reinforce", "clip", "gspo", "cispo"]
ADVANTAGES = ["centered", "rloo", "std", "maxrl"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "advantage"),
    [("reinforce", each) for each in ADVANTAGES] + [(each, "rloo") for each in LOSSES],
)
def test_every_loss_and_advantage_learns(
    loss: str, advantage: str, four: Path, tmp_path: Path
) -> None:
    chosen = (f"objective.loss={loss}", f"objective.advantage={advantage}")
    learned(config_of(four, f"data={task(tmp_path, 'gold')}", *STEPS, *chosen), tmp_path)
    assert share_right(tmp_path) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_punished_is_unlearned(loss: str, four: Path, tmp_path: Path) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text(
        "def reward(row, outcome):\n    return float(outcome.final != row['answer'])\n"
    )
    data = task(tmp_path, "gold")
    settings = (f"data={data}", f"reward={reward}", f"objective.loss={loss}")
    learned(config_of(four, *settings, *STEPS), tmp_path)
    assert share_right(tmp_path) >= 0.95


def test_without_rewards_the_weights_keep_their_bits(four: Path, tmp_path: Path) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text("def reward(row, outcome):\n    return None\n")
    config = config_of(four, f"data={task(tmp_path, 'gold')}", f"reward={reward}", "steps=3")
    model = learned(config, tmp_path)
    untouched = rl.trained_model(config, four, four)
    assert same_bits(model, untouched)
    assert log_of(tmp_path)[-1]["ungraded"] == 1


# ---- interruption ----


def test_a_run_that_was_interrupted_ends_with_the_same_bytes(four: Path, tmp_path: Path) -> None:
    """Measuring on the way changes nothing either."""
    data = task(tmp_path, "gold")
    whole = learned(config_of(four, f"data={data}"), tmp_path / "whole")
    measured = config_of(four, f"data={data}", "evaluating.every=2", "evaluating.problems=1")
    out = tmp_path / "parts"
    learned(measured, out, stop_after=3)
    again = learned(measured, out)
    assert same_bits(whole, again)
    assert files_of(tmp_path / "whole") == files_of(out)
    assert len(files_of(out)) == 6
    assert len(files_of(out, "evaluations/*")) == 3


@pytest.mark.parametrize(
    ("lag", "versions"),
    [
        (2, [0, 0, 0, 1, 2, 3]),
        pytest.param(1, [0, 0, 1, 2, 3, 4], marks=pytest.mark.slow),
        pytest.param(4, [0, 0, 0, 0, 0, 1], marks=pytest.mark.slow),
    ],
)
def test_older_samples_are_learned_from(
    lag: int, versions: list[int], four: Path, tmp_path: Path
) -> None:
    """Step s has the weights' samples of step s - lag, as long as they are, also after a pause."""
    data = task(tmp_path, "gold")
    config = config_of(four, f"data={data}", f"sampling.lag={lag}")
    whole = learned(config, tmp_path / "whole")
    learned(config, tmp_path / "parts", stop_after=3)
    again = learned(config, tmp_path / "parts")
    assert same_bits(whole, again)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "parts")
    log = log_of(tmp_path / "whole")
    assert [line["version"] for line in log] == versions
    for step, line in enumerate(log):
        text = (tmp_path / "whole/train/rollouts" / f"{step:06d}.jsonl").read_text()
        samples = [json.loads(each) for each in text.splitlines()]
        assert {each["version"] for each in samples} == {line["version"]}
        assert line["sampled"] == sum(each["counts"]["sampled"] for each in samples)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["clip", "cispo"])
def test_several_updates_learn_from_one_batch_of_answers(
    loss: str, four: Path, tmp_path: Path
) -> None:
    """The first of a step is what it would be alone; later ones see ratios that are not 1."""
    data = task(tmp_path, "gold")
    chosen = (f"objective.loss={loss}", "hyper.peak_lr=5e-3", "steps=3")
    learned(config_of(four, f"data={data}", *chosen), tmp_path / "one")
    several = config_of(four, f"data={data}", *chosen, "objective.updates=3")
    whole = learned(several, tmp_path / "three")
    learned(several, tmp_path / "parts", stop_after=2)
    assert same_bits(whole, learned(several, tmp_path / "parts"))
    assert files_of(tmp_path / "three") == files_of(tmp_path / "parts")
    single, log = log_of(tmp_path / "one"), log_of(tmp_path / "three")
    assert log[0]["loss"] == single[0]["loss"]
    assert log[0]["gradient_norm"] == single[0]["gradient_norm"]
    assert [line["version"] for line in log] == [0, 3, 6]
    assert all(line["clipped"] == 0 for line in log if "clipped" in line)
    assert all(line["mismatch_largest"] == 0 for line in log if "mismatch_largest" in line)
    if loss == "clip":
        assert max(line.get("last_clipped", 0) for line in log) > 0.1
    assert sum(line["correct"] for line in log) > sum(line["correct"] for line in single)


def test_later_updates_of_another_engine_are_held_to_what_the_trainer_found(
    four: Path, tmp_path: Path
) -> None:
    """So what the first update corrects is the engine's difference alone, and what later ones clip
    is that of the updates.
    """
    other = ("sampling.sampler=int8", "quantize=true", "objective.updates=2", "steps=2")
    settings = (*other, "objective.correction=tis")
    learned(config_of(four, f"data={task(tmp_path, 'gold')}", *settings), tmp_path)
    for line in log_of(tmp_path):
        assert 0 < line["mismatch_largest"] < 0.2
        assert line["last_mismatch_largest"] == line["mismatch_largest"]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["clip", "gspo", "cispo"])
def test_every_loss_learns_with_several_updates(loss: str, four: Path, tmp_path: Path) -> None:
    settings = (f"objective.loss={loss}", "objective.updates=3", *STEPS)
    learned(config_of(four, f"data={task(tmp_path, 'gold')}", *settings), tmp_path)
    assert share_right(tmp_path) >= 0.95


def test_halves_are_compared_where_it_is_asked_for(four: Path, tmp_path: Path) -> None:
    settings = ("objective.halves=true", "sampling.groups=4", "steps=1", "threads=1")
    learned(config_of(four, f"data={task(tmp_path, 'gold')}", *settings), tmp_path)
    for line in log_of(tmp_path):
        assert 0.5 < line["halves_cosine"] <= 1  # there is one thing to learn


def test_threads_decide_no_bit_and_are_set(four: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    data = task(tmp_path, "gold")
    found = []
    try:
        for threads in ("1", "2"):
            out = tmp_path / threads
            settings = (f"threads={threads}", "steps=1", "sampling.samples=4")
            rl.learn(config_of(four, f"data={data}", *settings), out)
            assert torch.get_num_threads() == int(threads)
            assert not_compiled() or cpu.threads() == int(threads)
            found.append(files_of(out) | files_of(out, "weights.safetensors"))
    finally:
        use_threads(before)
    assert found[0] == found[1]


@pytest.mark.parametrize(("sampler", "most"), [("exact", 0), ("int8", 0.2)])
def test_chosen_experts_are_replayed(sampler: str, most: float, four: Path, tmp_path: Path) -> None:
    chosen = ("sampling.replay=true", f"sampling.sampler={sampler}", "steps=2")
    learned(config_of(four, f"data={task(tmp_path, 'gold')}", *chosen), tmp_path)
    assert all(line["mismatch_largest"] <= most for line in log_of(tmp_path))


@pytest.mark.slow
def test_a_run_that_is_killed_ends_with_the_same_bytes(four: Path, tmp_path: Path) -> None:
    data = task(tmp_path, "gold")
    whole = learned(config_of(four, f"data={data}", "steps=30"), tmp_path / "whole")
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "ossia", "train", "rl", f"model={four}", f"data={data}"]
    command += [*rl_settings("steps=30"), "--out", str(out), "--resume", "--quiet"]
    rng = random.Random(0)
    for _ in range(20):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            time.sleep(1.5 + rng.random() * 3)  # at any moment, imports included
            process.send_signal(signal.SIGKILL)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)
    assert files_of(tmp_path / "whole") == files_of(out)
    weights = files_of(out, "weights.safetensors")
    assert weights == files_of(tmp_path / "whole", "weights.safetensors")
    assert len(weights) == 1
    assert whole is not None


def rl_settings(*more: str) -> list[str]:
    from rl_runs import SMALL

    return [*SMALL, *more]


# ---- other ways of training ----


def test_low_rank_changes_leave_the_rest_alone_and_are_sampled_from(
    four: Path, tmp_path: Path
) -> None:
    config = config_of(
        four,
        f"data={task(tmp_path, 'gold')}",
        "method=lora",
        "lora.rank=4",
        "steps=8",
        "hyper.peak_lr=2e-2",
    )
    model = learned(config, tmp_path)
    untouched = rl.trained_model(config_of(four), four, four).state_dict()
    kept = {name: value for name, value in model.state_dict().items() if name in untouched}
    assert "layers.0.attn.q.weight" in kept
    assert all(torch.equal(value, untouched[name]) for name, value in kept.items())
    log = log_of(tmp_path)
    assert all(line.get("mismatch_largest", 0) == 0 for line in log)
    assert max(line["correct"] for line in log[-3:]) > log[0]["correct"]


@pytest.mark.parametrize(("sampler", "most"), [("float32", 1e-4), ("bf16", 0.1), ("int8", 0.2)])
def test_other_engines_differ_a_little(
    sampler: str, most: float, four: Path, tmp_path: Path
) -> None:
    """They sample from each step's own weights, so the difference does not grow."""
    config = config_of(
        four,
        f"data={task(tmp_path, 'gold')}",
        f"sampling.sampler={sampler}",
        "objective.correction=tis",
        "quantize=true",
        "steps=4",
    )
    learned(config, tmp_path)
    found = [line["mismatch_largest"] for line in log_of(tmp_path) if "mismatch_largest" in line]
    assert len(found) > 1
    assert 0 < max(found) < most


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sampled", "full"])
def test_a_teacher_is_followed(how: str, four: Path, tmp_path: Path) -> None:
    """One that says gold; the rewards are for red."""
    config = config_of(four, f"data={task(tmp_path, 'gold')}", *STEPS)
    learned(config, tmp_path / "teacher")
    rl.write_model(config, tmp_path / "teacher")
    told = (f"teacher={tmp_path / 'teacher' / 'model'}", f"objective.distill={how}")
    (tmp_path / "red").mkdir()
    red = task(tmp_path / "red", "red")
    learned(config_of(four, f"data={red}", "steps=10", "hyper.peak_lr=3e-3", *told), tmp_path)
    last = (tmp_path / "train/rollouts/000009.jsonl").read_text().splitlines()
    finals = [json.loads(line)["final"] for line in last]
    assert finals.count("gold") >= len(finals) * 0.9


def test_what_will_be_rounded_is_sampled_rounded(four: Path, tmp_path: Path) -> None:
    config = config_of(four, f"data={task(tmp_path, 'gold')}", "quantize=true", "steps=3")
    learned(config, tmp_path)
    assert all(line.get("mismatch_largest", 0) == 0 for line in log_of(tmp_path))


@pytest.mark.slow
def test_holding_to_the_first_model_slows_what_is_learned(four: Path, tmp_path: Path) -> None:
    data = task(tmp_path, "gold")
    free = config_of(four, f"data={data}", "steps=5")
    held = config_of(four, f"data={data}", "steps=5", "objective.kl=2")
    start = rl.trained_model(free, four, four).state_dict()

    def moved(model: Transformer) -> float:
        state = model.state_dict()
        return sum((state[name] - value).square().sum().item() for name, value in start.items())

    assert moved(learned(held, tmp_path / "held")) < moved(learned(free, tmp_path / "free"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_weights_are_held_to_is_replaced_and_goes_on_the_same(
    method: str, four: Path, tmp_path: Path
) -> None:
    """At step 4 it is the weights of then; a run that goes on at step 5 has them from the disk."""
    kl = (f"method={method}", "objective.kl=2", "objective.refresh=4", "steps=6", "save_every=1")
    config = config_of(four, f"data={task(tmp_path, 'gold')}", *kl)
    whole = learned(config, tmp_path / "whole")
    learned(config, tmp_path / "parts", stop_after=5)
    assert same_bits(learned(config, tmp_path / "parts"), whole)
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    kept = list((tmp_path / "whole" / "train" / "references").iterdir())
    assert [path.name for path in kept] == ["000004"]
    never = config_of(four, f"data={task(tmp_path, 'gold')}", *kl[:2], *kl[3:])
    assert not same_bits(learned(never, tmp_path / "never"), whole)


# ---- what is wrong ----


def test_answers_that_are_all_cut_stop_the_run(four: Path, tmp_path: Path) -> None:
    config = config_of(four, f"data={task(tmp_path, 'gold')}", "sampling.max_tokens=2")
    with pytest.raises(TrainingError, match=r"cut off.*raise sampling\.max_tokens"):
        learned(config, tmp_path)


def test_a_run_that_stops_keeps_its_steps(four: Path, tmp_path: Path) -> None:
    """The alarm comes while the samples after the last step are drawn."""
    settings = ("sampling.max_tokens=2", "save_every=1")
    config = config_of(four, f"data={task(tmp_path, 'gold')}", *settings)
    for _ in range(2):
        with pytest.raises(TrainingError, match="cut off"):
            learned(config, tmp_path)
        state = torch.load(tmp_path / "train" / "state.pt", weights_only=False)
        assert state["step"] == 2


def test_groups_that_teach_nothing_stop_the_run(four: Path, tmp_path: Path) -> None:
    config = config_of(four, f"data={task(tmp_path, 'violet')}")
    with pytest.raises(TrainingError, match=r"nothing to learn from; nearly all are wrong"):
        learned(config, tmp_path)


def test_settings_that_cannot_be(four: Path) -> None:
    with pytest.raises(ConfigError, match=r"data=FILE"):
        rl.phases(config_of(four), Path("nowhere"))
    with pytest.raises(ConfigError, match="temperature must be above 0"):
        config_of(four, "sampling.temperature=0")
    with pytest.raises(ConfigError, match="samples must be 2"):
        config_of(four, "sampling.samples=1")
    with pytest.raises(ConfigError, match=r"sampler=exact needs hyper\.compile=false"):
        config_of(four, "hyper.compile=true")
    with pytest.raises(ConfigError, match="there is no task 'sums'"):
        rl.phases(config_of(four, "task=sums"), Path("nowhere"))


@pytest.mark.parametrize("between", [",", ";", " ; "])
def test_conditions_of_a_task(four: Path, between: str) -> None:
    config = config_of(four, f"task=state[k=4..6{between}kind=cups],arithmetic")
    one, other = (own(text) for text in config.task)
    assert (one.name, other.name) == ("state[k=4..6,kind=cups]", "arithmetic")
    assert one.only == (("k", "4..6"), ("kind", "cups"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("state[k=four..6]", "two whole numbers"),
        ("state[k=6..4]", "smaller one first"),
        ("state[k=4..]", "two whole numbers"),
        ("state[k=4", "must end with ]"),
        ("state[k]", "'k' is no condition"),
        ("state[]", "is no condition"),
        ("state[k=4]more", "must end with ]"),
    ],
)
def test_conditions_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        own(text)


def test_rollouts_are_written_as_they_were_sampled(four: Path, tmp_path: Path) -> None:
    learned(config_of(four, f"data={task(tmp_path, 'gold')}", "steps=1"), tmp_path)
    (path,) = (tmp_path / "train" / "rollouts").iterdir()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["group"], line["index"]) for line in lines] == [
        (group, index) for group in range(2) for index in range(8)
    ]
    for line in lines:
        (segment,) = line["segments"]
        (piece,) = segment["pieces"]
        assert piece["sampled"]
        assert len(piece["tokens"]) == len(piece["logprobs"]) == line["counts"]["sampled"]
        assert line["final"] in piece["text"]
        assert line["reward"] == float(line["final"] == "gold")


# ---- what graders said once ----

UNSTEADY = """
from pathlib import Path

ASKED = Path(__file__).with_name("asked")
OUT = Path(__file__).with_name("out")  # while it is there, nobody is at home

def reward(row, outcome):
    with ASKED.open("a") as file:
        file.write("x")
    if OUT.exists() and outcome.final < "go":
        return None
    return float(outcome.final == row["answer"])
"""


def test_what_a_grader_said_or_did_not_say_stands_when_a_step_is_done_again(
    four: Path, tmp_path: Path
) -> None:
    """It was out while steps 2 and 3 were graded, and is back when they are done again."""
    reward = tmp_path / "reward.py"
    reward.write_text(UNSTEADY)
    asked, absent = tmp_path / "asked", tmp_path / "out"
    given = (f"data={task(tmp_path, 'gold')}", f"reward={reward}", "sampling.replay=true")
    config = config_of(four, *given, "steps=4", "save_every=2")
    out = tmp_path / "run"
    learned(config, out, stop_after=2)
    state = (out / "train" / "state.pt").read_bytes()
    absent.touch()
    whole = learned(config, out)
    files = files_of(out) | files_of(out, "weights.safetensors")
    assert log_of(out)[2]["ungraded"] > 0
    assert log_of(out)[1]["ungraded"] == 0
    asked.unlink()
    absent.unlink()
    (out / "train" / "state.pt").write_bytes(state)
    again = learned(config, out)
    assert same_bits(whole, again)
    assert files == files_of(out) | files_of(out, "weights.safetensors")
    assert not asked.exists()


def test_a_damaged_record_is_said_to_be_one(four: Path, tmp_path: Path) -> None:
    config = config_of(four, f"data={task(tmp_path, 'gold')}", "steps=1")
    learned(config, tmp_path)
    path = tmp_path / "train/rollouts/000000.jsonl"
    (tmp_path / "train" / "state.pt").unlink()
    for cut in ('"effort": "low"', '"counts": {"prompt"'):
        text = path.read_text()
        assert cut in text
        path.write_text(text.replace(cut, cut[:-4] + '_"'))
        with pytest.raises(DataError, match="remove the file, and the step is sampled again"):
            learned(config, tmp_path)
        path.write_text(text)


def test_samples_of_other_settings_are_not_taken(four: Path, tmp_path: Path) -> None:
    """The same weights and problems, and another reward."""
    data = task(tmp_path, "gold")
    reward = tmp_path / "reward.py"
    found = []
    for right in ("==", "!="):
        reward.write_text(
            f"def reward(row, outcome):\n    return float(outcome.final {right} row['answer'])\n"
        )
        learned(config_of(four, f"data={data}", f"reward={reward}", "steps=1"), tmp_path)
        (tmp_path / "train" / "state.pt").unlink()
        found.append(files_of(tmp_path))
    assert found[0] != found[1]
    reward.unlink()
    learned(config_of(four, f"data={data}", "steps=1", "hyper.seed=1"), tmp_path)
    assert files_of(tmp_path) not in found
