"""recipes/reason.py: what its seeds look like, its gate and its statistics against plain formulas;
and, slowly, all of it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # recipes are no part of what is installed

from ossia.checkpoint import open_checkpoint  # noqa: E402
from ossia.commands.main import main  # noqa: E402
from ossia.errors import TrainingError  # noqa: E402
from ossia.harmony import Effort  # noqa: E402
from ossia.tasks import grade  # noqa: E402
from ossia.tasks.environment import Counts, Outcome, Reward  # noqa: E402
from ossia.train.recipes.sft import base_folder, tokenizer_of  # noqa: E402
from ossia.train.rl.settings import Sampling  # noqa: E402
from ossia.train.weights.export import load_weights  # noqa: E402
from ossia.turn.record import Piece, Segment  # noqa: E402
from ossia.turn.rollout import Sample  # noqa: E402
from recipes.experiments import results  # noqa: E402
from recipes.reasoning import (  # noqa: E402
    calls,
    calls_found,
    distilled,
    effort,
    engines_found,
    forcing,
    gate,
    measure,
    mismatch,
    rejection,
    rewards,
    seeds,
)
from recipes.reasoning.measure import Row  # noqa: E402

TOKENIZER = tokenizer_of(base_folder("nano"))


def row(problem: int, of: str, right: bool, thoughts: int = 10, index: int = 0) -> Row:
    answer = 1 if right else 2
    return Row(problem, 4, of, index, right, answer, thoughts, thoughts + 8, "high", "stop")


# ---- seeds ---------------------------------------------------------------------------------------


def test_most_seeds_are_worked_out_as_their_effort_says() -> None:
    rng = Random(1)
    drawn = Counter(seeds.grain_for(Effort.LOW, rng) for _ in range(20_000))
    assert drawn[Effort.LOW] / 20_000 == pytest.approx(seeds.TIED, abs=0.01)
    others = (1 - seeds.TIED) / 2
    assert drawn[Effort.HIGH] / 20_000 == pytest.approx(others, abs=0.01)
    assert drawn[Effort.MEDIUM] / 20_000 == pytest.approx(others, abs=0.01)


def test_seeds_go_on_where_they_were() -> None:
    whole = seeds.examples(TOKENIZER, "number", 6, 1, None)
    drawn = [next(whole) for _ in range(6)]
    later = seeds.examples(TOKENIZER, "number", 6, 1, drawn[2][1])
    assert [next(later) for _ in range(3)] == drawn[3:]


def test_a_seed_teaches_answers_alone() -> None:
    for number in range(20):
        example, _ = next(seeds.examples(TOKENIZER, "number", 6, 1, number))
        pairs = zip(example.ids, example.mask, strict=True)
        taught = TOKENIZER.decode([token for token, learned in pairs if learned])
        assert "What is x?" not in taught and "Reasoning:" not in taught
        assert taught.count("<|channel|>final<|message|>x = ") >= 1


@pytest.mark.parametrize("grain", list(Effort))
def test_how_finely_an_answer_is_worked_out_is_seen(grain: Effort) -> None:
    for problem in measure.held_out("number", [1, 4, 12], 5):
        assert measure.grain_of(problem.turns[0].think(grain)) == grain.value


# ---- the gate ------------------------------------------------------------------------------------


def test_the_gate_is_shut_by_each_of_its_numbers() -> None:
    good = gate.Gate("x", guess=0.05, guess_k=0.4, pass_1=0.4, pass_k=0.8, full=0.9)
    assert good.is_open
    changes = ({"guess": 0.06}, {"pass_1": 0.2}, {"pass_1": 0.66}, {"pass_k": 0.6}, {"full": 0.5})
    for change in changes:
        shut = replace(good, **change)
        assert not shut.is_open and "!" in gate.table([shut])
    assert "!" not in gate.table([good])


def test_guesses_are_the_share_of_the_commonest_answers() -> None:
    one, eight = gate.guesses("modular", [8])
    # modulo 7, 11 and 13, one of three each: a digit below 7 is as common as any
    mean = (1 / 7 + 1 / 11 + 1 / 13) / 3
    assert one == pytest.approx(mean, abs=0.03)
    assert eight > 6.5 * mean


def test_pass_at_k_is_a_mean_over_problems_and_efforts() -> None:
    rows = [row(0, "low", n < 2, index=n) for n in range(4)]
    rows += [row(1, "low", False, index=n) for n in range(4)]
    assert gate.passed(rows, 2) == pytest.approx((1 - 1 / 6) / 2)


# ---- E1 and E7 -----------------------------------------------------------------------------------


def test_an_interval_in_every_seed_covers_that_of_each() -> None:
    rng = Random(1)
    per_seed = [[rng.gauss(mean, 1) for _ in range(100)] for mean in (0.0, 1.0)]
    each = [results.mean_of([items]) for items in per_seed]
    found = results.in_every_seed(per_seed, fmean)
    assert found.low == each[0].low and found.high == each[1].high
    assert found.mean == pytest.approx((each[0].mean + each[1].mean) / 2)


def test_a_curve_is_read_between_its_points() -> None:
    curve = [(10.0, 0.2), (40.0, 0.6)]
    assert effort.at(curve, 20.0) == pytest.approx(0.4)
    assert effort.at(curve, 5.0) == 0.2 and effort.at(curve, 80.0) == 0.6


def test_nothing_is_lifted_where_nothing_changed() -> None:
    rows = [row(0, "low", False, 5), row(0, "medium", True, 20), row(0, "high", True, 60)]
    pairs = list(zip(effort.items(rows), effort.items(rows), strict=True))
    assert effort.lift(pairs) == pytest.approx(0.0) and effort.growth(pairs) == 0.0
    assert effort.ratio(effort.items(rows)) == pytest.approx(12.0)
    assert effort.gain(effort.items(rows)) == 1.0


def test_intervals_are_over_problems_not_answers() -> None:
    """Eight answers that are all alike say no more than one."""
    few, many = (
        [
            row(problem, of, problem == 0, 10 + 40 * problem, index)
            for problem in range(2)
            for of in effort.EFFORTS
            for index in range(answers)
        ]
        for answers in (1, 8)
    )
    found = distilled._numbers([many], "pass@8")["thoughts, low"]
    assert (found.low, found.high) == (10.0, 50.0)
    assert found == distilled._numbers([few], "pass@1")["thoughts, low"]
    assert effort._by_steps([many]) == effort._by_steps([few])
    assert effort._by_steps([many])[0].low == (0.0,)


def test_a_vote_is_won_by_the_commonest_answer() -> None:
    rows = [row(0, "high", right, index=n) for n, right in enumerate((False, True, True, False))]
    assert effort.majority(rows, 1) == [0.5]
    assert effort.majority(rows, 2) == [0.5]  # of two different ones, the first
    assert effort.majority(rows[1:4], 3) == [1.0]


def test_differences_are_taken_problem_by_problem() -> None:
    ours = [row(n, "low", n % 2 == 0) for n in range(40)]
    theirs = [row(n, "low", n % 2 == 0 and n > 3) for n in range(40)]
    pairs = rewards.paired([ours, ours], [theirs])
    found = results.in_every_seed(pairs, rewards.more(rewards.first))
    assert found.mean == pytest.approx(2 / 40) and len(found.values) == 2
    assert found.low >= 0.0  # what is alike in both does not widen it


# ---- what is sampled -----------------------------------------------------------------------------


def answered(text: str) -> Sample:
    prompt = tuple(TOKENIZER.encode_with_specials("<|start|>user<|message|>x<|end|>"))
    ids = tuple(TOKENIZER.encode_with_specials(text))
    piece = Piece(ids, tuple([0.0] * len(ids)))
    outcome = Outcome("x = 1", (), "stop", Counts(sampled=len(ids)))
    segments = (Segment(prompt, (piece,)),)
    return Sample(0, 0, 0, Effort.HIGH, segments, outcome, Reward(1.0, {}, True))


def test_thoughts_are_cut_where_the_budget_ends() -> None:
    thoughts = "1 +2: 3+2=5\n2 *3: 5*3=15"
    sample = answered(
        f"<|channel|>analysis<|message|>{thoughts}<|end|><|start|>assistant<|channel|>final"
        "<|message|>x = 15<|return|>"
    )
    length = len(TOKENIZER.encode(thoughts))
    found = forcing.cut(sample, 4, TOKENIZER)
    assert found is not None
    begun = TOKENIZER.decode(TOKENIZER.encode(thoughts)[:4])
    assert TOKENIZER.decode(found).endswith(f"analysis<|message|>{begun}{forcing.NOW}")
    assert forcing.cut(sample, length, TOKENIZER) is not None
    assert forcing.cut(sample, length + 1, TOKENIZER) is None


def test_kept_answers_come_in_another_order_each_epoch(tmp_path: Path) -> None:
    lines = [f'{{"prompt": [1, 2], "ids": [{n}]}}\n' for n in range(10)]
    (tmp_path / rejection.KEPT).write_text("".join(lines))
    drawn = rejection.examples(tmp_path, 1, None)
    epochs = [[next(drawn) for _ in range(10)] for _ in range(2)]
    orders = [[example.ids[2] for example, _ in epoch] for epoch in epochs]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10)) and orders[0] != orders[1]
    later = rejection.examples(tmp_path, 1, epochs[0][6][1])
    assert [next(later)[0].ids[2] for _ in range(3)] == orders[0][7:]
    assert epochs[0][0][0].mask == [False, False, True]


def test_a_control_without_a_right_answer_is_refused(tmp_path: Path) -> None:
    (tmp_path / rejection.KEPT).write_text("")
    with pytest.raises(TrainingError, match="none of the answers was rewarded"):
        rejection.kept(tmp_path)


# ---- E12 -----------------------------------------------------------------------------------------


def called(problem: int, right: bool, condition: str = "orders", obeyed: bool = False) -> calls.Row:
    return calls.Row(condition, problem, "low", 0, right, True, obeyed, 9, "stop")


def test_what_was_never_obeyed_may_still_be_obeyed_now_and_then() -> None:
    never = [called(n, True) for n in range(50)]
    found = calls_found.share([never, never], "orders", "obeyed")
    assert found.mean == found.low == 0 and found.high == pytest.approx(0.071, abs=0.001)
    once = [*never[1:], called(0, True, obeyed=True)]
    found = calls_found.share([never, once], "orders", "obeyed")
    assert found.values == (0, 0.02) and found.high > 0.02


def test_one_run_of_theirs_stands_beside_each_of_ours() -> None:
    ours = [[called(n, n < right, "renamed") for n in range(20)] for right in (15, 20)]
    theirs = [[called(n, n < 5, "renamed") for n in range(20)]]
    found = calls_found.difference(ours, theirs, "renamed")
    assert found.values == (0.5, 0.75)


def test_problems_without_a_tool_want_no_call() -> None:
    for problem in calls.held_out(calls.ALONE, 5):
        assert not problem.tools and grade(problem, problem.answer, ()) == 1.0


@pytest.mark.parametrize("condition", [name for name in calls.CONDITIONS if name != calls.ALONE])
def test_measured_problems_are_held_out(condition: str) -> None:
    names = {problem.about["name"] for problem in calls.held_out(condition, 8)}
    assert names == set(calls.CONDITIONS[condition][1])


def test_calls_to_learn_from_go_on_where_they_were() -> None:
    whole = calls.examples(TOKENIZER, 1, None)
    drawn = [next(whole) for _ in range(4)]
    later = calls.examples(TOKENIZER, 1, drawn[1][1])
    assert [next(later) for _ in range(2)] == drawn[2:]


# ---- E11 -----------------------------------------------------------------------------------------


def products(own: list[list[float]], reference: list[list[float]]) -> mismatch.Products:
    return mismatch.products_of(torch.tensor(own), torch.tensor(reference))


def test_cosines_are_those_of_the_summed_gradients() -> None:
    rng = Random(2)
    own = [[rng.gauss(0, 1) for _ in range(5)] for _ in range(12)]
    other = [[rng.gauss(0.5, 1) for _ in range(5)] for _ in range(12)]
    a = torch.tensor(own).sum(0)
    b = torch.tensor(other).sum(0)
    expected = torch.nn.functional.cosine_similarity(a, b, dim=0).item()
    found = engines_found.cosine(products(own, other))
    assert found.mean == pytest.approx(expected, abs=1e-5)
    assert found.low < expected < found.high
    same = engines_found.cosine(products(own, own))
    assert same.low == pytest.approx(1.0, abs=1e-5) and same.high == pytest.approx(1.0, abs=1e-5)
    less = engines_found.difference(products(own, own), products(own, own))
    assert less.low == less.high == 0.0


def test_what_engines_report_is_compared_with_the_trainer(tmp_path: Path) -> None:
    model = load_weights(open_checkpoint(base_folder("nano")).config, base_folder("nano")).eval()
    asks = measure.asks_of(measure.held_out("number", [1], 1))
    settings = Sampling(samples=2, max_tokens=12, replay=True)
    for sampler in ("exact", "int8"):
        drawn = mismatch.drawn(model, TOKENIZER, asks, replace(settings, sampler=sampler))
        try:
            found = drawn.compared(model)
        finally:
            drawn.close()
        path = tmp_path / f"{sampler}.npz"
        mismatch.save(found, path)
        assert (mismatch.read_compared(path).tokens == found.tokens).all()
        assert found.tokens.sum() > 12 and found.known.sum() > 12
        assert (found.largest.max() == 0) == (sampler == "exact")
        assert (found.k3.sum() == 0) == (sampler == "exact")
    assert found.other.sum() <= found.known.sum()


# ---- all of it -----------------------------------------------------------------------------------

RECIPE = str(ROOT / "recipes" / "reason.py")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the smallest profile from beginning to end."""
    out = tmp_path_factory.mktemp("reason") / "run"
    assert main(["train", RECIPE, "--out", str(out), "profile=smoke"]) == 0
    return out


@pytest.mark.slow
def test_every_stage_of_the_recipe(whole: Path) -> None:
    page = (whole / "report" / "reasoning.md").read_text()
    for experiment in ("E1", "E7", "E11", "E12", "E13"):
        assert f"## {experiment}:" in page
    for name in ("effort", "rewards", "engines", "tools", "distilling"):
        assert (whole / "report" / f"{name}.svg").exists() and f"]({name}.svg)" in page


@pytest.mark.slow
def test_a_killed_run_ends_as_if_it_had_not_been(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "ossia", "train", RECIPE, "--out", str(out), "profile=smoke"]
    places = ("rewards-1/train/rollouts/000000.jsonl", "tool-measured/nano.jsonl")
    for place in (*places, "copied-1/counts.json", "compared/exact.npz", "curves/int8-MIS/train"):
        killed = subprocess.Popen([*command, "--resume"])
        while not (out / place).exists():
            assert killed.poll() is None, "it ended before it was killed"
            time.sleep(0.02)
        killed.kill()
        killed.wait()
    subprocess.run([*command, "--resume"], check=True)
    for pattern in ("**/weights.safetensors", "**/rollouts/*.jsonl", "*measured/*.jsonl"):
        made = sorted(path.relative_to(whole) for path in whole.glob(pattern))
        assert made
        for path in made:
            assert (out / path).read_bytes() == (whole / path).read_bytes(), path
