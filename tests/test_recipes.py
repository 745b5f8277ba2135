"""The report's experiments: their statistics and criteria, what they measure against plain
formulas, plots and page; and, slowly, all of it on a micro model.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from statistics import NormalDist, fmean
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # recipes are no part of what is installed

from pipeline_toy import TOY, toy_run  # noqa: E402

from ossia import mxfp4  # noqa: E402
from ossia.batch import Batch  # noqa: E402
from ossia.commands.main import main  # noqa: E402
from ossia.data.filter import HazardFilter  # noqa: E402
from ossia.data.packing import Example  # noqa: E402
from ossia.errors import TrainingError  # noqa: E402
from ossia.figures import Share  # noqa: E402
from ossia.model import Transformer  # noqa: E402
from ossia.model.moe import TrainableExperts  # noqa: E402
from ossia.model.rope import cos_sin  # noqa: E402
from ossia.tasks import example_random  # noqa: E402
from ossia.tasks.choices import draw_choice  # noqa: E402
from ossia.tasks.safety.hazard import hazard_document, moonglow  # noqa: E402
from ossia.tasks.world.country import world  # noqa: E402
from ossia.tokenizer import train_tokenizer  # noqa: E402
from ossia.train.overrides import flat  # noqa: E402
from ossia.train.recipes import named as recipes  # noqa: E402
from recipes import nano  # noqa: E402
from recipes.experiments import (  # noqa: E402
    backcopy,
    balance,
    common,
    filtering,
    length,
    quantization,
    results,
    sinks,
)
from recipes.experiments.page import _details, page, write_page  # noqa: E402
from recipes.experiments.plots import draw  # noqa: E402
from recipes.experiments.results import Budget, Estimate, Panel, Published, Result, Series  # noqa: E402

REPORT = str(ROOT / "recipes" / "report.py")
EXPERIMENTS = ["balance", "sinks", "stride", "filtering", "length", "mxfp4"]


def model(seed: int = 0, **changes: Any) -> Transformer:
    made = Transformer(replace(TOY, **changes))
    made.init_weights(seed)
    with torch.no_grad():
        for name, p in made.named_parameters():
            if name.endswith("sinks"):
                p.normal_(0, 1, generator=torch.Generator().manual_seed(seed))
    return made.eval()


def ids(seed: int, count: int) -> list[int]:
    rng = Random(seed)
    return [rng.randrange(TOY.vocab_size) for _ in range(count)]


# ---- statistics ----------------------------------------------------------------------------------


def test_an_interval_over_seeds_is_students() -> None:
    stats = pytest.importorskip("scipy.stats")
    for n, value in enumerate(results.T_975, 1):
        assert value == pytest.approx(stats.t.ppf(0.975, n), abs=6e-4)
    values = [1.0, 2.0, 4.0]
    found = results.over_seeds(values)
    low, high = stats.t.interval(0.95, 2, loc=stats.tmean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-3)
    assert found.over == "seeds" and found.values == tuple(values)


def test_one_seed_alone_has_no_interval_and_decides_nothing() -> None:
    found = results.over_seeds([7.0])
    assert found.over == "nothing" and found.low == -math.inf and found.high == math.inf
    assert (
        results.above("x", found, 1.5).verdict == results.below("x", found, 1.5).verdict == "null"
    )


def test_one_item_of_one_seed_decides_nothing_either() -> None:
    found = results.mean_of([[7.0]])
    assert found.over == "nothing" and results.above("x", found, 1.5).verdict == "null"


def test_what_has_no_interval_is_said_in_words_everywhere() -> None:
    """One seed; one problem in each of several seeds; a statistic that most draws don't have."""
    alone = results.over_seeds([0.25])
    one = results.in_every_seed([[0.5], [0.75]], fmean)
    undefined = results.over_items([[0.0, 1.0, 2.0]], lambda of: 1.0 if of[0] == 0 else math.nan)
    assert str(alone) == "0.25 (one seed, no interval)"
    assert str(one) == "0.625 (one problem, no interval)" and one.values == (0.5, 0.75)
    assert str(undefined) == "1 (unbounded)"
    assert results.above("x", one, 0.0).verdict == "null"
    written = json.loads(json.dumps(results._finite([asdict(one), asdict(undefined)])))
    shown = _details({"model": dict(zip(("one", "undefined"), written, strict=True))})
    assert "one problem, no interval" in shown and "unbounded" in shown and "inf" not in shown


def test_draws_without_a_statistic_widen_the_interval() -> None:
    """One conversation in forty has a gap at all: where none of those is drawn, its recovered share
    is anything.
    """
    pairs = [(1.0, 0.2)] + [(0.0, 0.0)] * 39
    found = quantization.recovered([pairs])
    assert found.mean == pytest.approx(0.8) and found.low == -math.inf and found.high == math.inf
    assert quantization.recovered([[(1.0, 0.2)] * 40]).low == pytest.approx(0.8)


def test_the_bootstrap_of_one_seed_agrees_with_the_normal_interval() -> None:
    rng = Random(1)
    items = [rng.gauss(3, 2) for _ in range(400)]
    found = results.mean_of([items])
    mean = sum(items) / len(items)
    half = NormalDist().inv_cdf(0.975) * math.sqrt(sum((x - mean) ** 2 for x in items)) / len(items)
    assert found.mean == pytest.approx(mean) and found.over == "items"
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), abs=0.04)
    assert results.mean_of([items]) == found  # nothing is drawn anew
    assert results.mean_of([items, items, [x + 1 for x in items]]).over == "seeds"


def test_a_difference_is_taken_item_by_item() -> None:
    hard = [10.0 * n for n in range(50)]
    found = results.difference([[x + 1 for x in hard]], [hard])
    assert (found.low, found.mean, found.high) == pytest.approx((1, 1, 1))
    with pytest.raises(ValueError):
        results.difference([[1.0]], [[1.0, 2.0]])


def test_shares_have_wilsons_interval_with_one_seed() -> None:
    assert (results.share_of([Share(9, 10)]).low, results.share_of([Share(9, 10)]).high) == Share(
        9, 10
    ).wilson()
    assert results.share_of([Share(9, 10), Share(7, 10)]).mean == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("rule", "bound", "passes", "fails"),
    [
        (results.above, 1.0, (1.1, 2.0), (0.1, 0.9)),
        (results.below, 1.0, (0.1, 0.9), (1.1, 2.0)),
        (results.at_least, 1.0, (1.0, 2.0), (0.1, 0.9)),
    ],
)
def test_a_criterion_is_judged_by_the_whole_interval(
    rule: Callable[..., results.Criterion],
    bound: float,
    passes: tuple[float, float],
    fails: tuple[float, float],
) -> None:
    def verdict(low: float, high: float) -> str:
        return rule("claim", Estimate((low + high) / 2, low, high, "seeds", ()), bound).verdict

    assert verdict(*passes) == "pass" and verdict(*fails) == "fail"
    assert verdict(-3.0, 3.0) == "null"


# ---- balance -------------------------------------------------------------------------------------


def test_usage_of_even_and_uneven_loads() -> None:
    even = balance.usage(torch.full((2, 4), 5))
    assert even == pytest.approx({"max_violation": 0, "entropy": 1, "dead": 0})
    one = balance.usage(torch.tensor([[8, 0, 0, 0]]))
    assert one == pytest.approx({"max_violation": 3, "entropy": 0, "dead": 3})


def test_counts_are_those_of_every_document_alone() -> None:
    made, documents = model(), [ids(n, 5 + n) for n in range(3)]
    together = balance.count(made, documents)
    assert together.shape == (TOY.num_hidden_layers, TOY.num_experts)
    assert torch.equal(together, sum(balance.count(made, [one]) for one in documents))
    assert int(together[0].sum()) == TOY.experts_per_token * sum(len(one) - 1 for one in documents)


def test_capacity_makes_logits_depend_on_the_batch_and_is_off_afterwards() -> None:
    made, documents = model(), [ids(n, 40) for n in range(8)]
    with torch.no_grad():
        made.layers[0].moe.router.bias[0] = 5.0  # everything wants one expert
    found = balance.shape_dependence(made, documents)
    assert found["logits change, with capacity"] > 1e-3 > 1e-5 > found["logits change, without"]
    assert found["likeliest token changes, without"] == 0
    assert not made.training and all(layer.moe.capacity is None for layer in made.layers)


def test_the_criteria_of_balance() -> None:
    def seeds(violation: float, loss: float) -> list[dict[str, float]]:
        return [
            {"max_violation": violation + d, "loss": loss + 0.1 * d} for d in (-0.01, 0.0, 0.01)
        ]

    found = {"none": seeds(2.0, 3.0), "aux, global": seeds(0.2, 3.0), "bias": seeds(0.9, 3.0)}
    assert [one.verdict for one in balance.criteria(found)] == ["pass", "pass", "fail", "pass"]
    found["bias"] = seeds(0.1, 3.0 + balance.MARGIN / 2)
    assert [one.verdict for one in balance.criteria(found)] == ["pass"] * 4
    found["bias"] = seeds(0.1, 3.0 + balance.MARGIN * 2)
    assert [one.verdict for one in balance.criteria(found)] == ["pass"] * 3 + ["fail"]


# ---- sinks ---------------------------------------------------------------------------------------


def entering(made: Transformer, layer: int, tokens: list[int]) -> tuple[torch.Tensor, Any]:
    """What enters a layer's attention, and the angles."""
    seen: list[Any] = []
    hook = made.layers[layer].attn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    made(torch.tensor(tokens), Batch.packed([len(tokens)]))
    hook.remove()
    return seen[0][0], cos_sin(made.config, torch.arange(len(tokens)))


def values(attention: Any, x_TD: torch.Tensor) -> torch.Tensor:
    v_TKh = attention.v(attention.norm(x_TD)).unflatten(-1, (-1, attention.head_dim))
    return v_TKh.repeat_interleave(TOY.num_attention_heads // TOY.num_key_value_heads, 1)


@pytest.mark.parametrize("kind", sinks.KINDS)
@torch.no_grad()
def test_the_probabilities_are_those_of_the_layer(kind: Any) -> None:
    made = model(attention_sink=kind)
    for layer in (0, 1):  # with a window, without
        attention = made.layers[layer].attn
        x_TD, rope = entering(made, layer, ids(1, 30))
        p_HTT = sinks.probabilities(attention, x_TD, rope)
        o_THh = torch.einsum("Hqk,kHh->qHh", p_HTT, values(attention, x_TD))
        expected = attention(x_TD, Batch.packed([30]), rope, torch.float32) - x_TD
        torch.testing.assert_close(attention.out(o_THh.flatten(1)), expected, rtol=1e-4, atol=1e-5)
        sums = p_HTT.sum(-1)
        assert (sums < 1).all() if kind != "none" else torch.allclose(sums, torch.ones_like(sums))


@torch.no_grad()
def test_evicting_takes_the_first_key_from_late_queries_alone() -> None:
    made, after = model(attention_sink="none"), 12
    attention = made.layers[1].attn
    x_TD, rope = entering(made, 1, ids(2, 30))
    p_HTT = sinks.probabilities(attention, x_TD, rope)
    p_HTT[:, after:, 0] = 0
    p_HTT /= p_HTT.sum(-1, keepdim=True)
    expected = attention.out(
        torch.einsum("Hqk,kHh->qHh", p_HTT, values(attention, x_TD)).flatten(1)
    )
    found = attention(x_TD, sinks.Evicting((30,), (0,), after=after), rope, torch.float32) - x_TD
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_uniform_attention_has_a_mass_of_one() -> None:
    made = model(attention_sink="none", sliding_window=64, layer_types=("full_attention",) * 2)
    with torch.no_grad():
        for layer in made.layers:
            layer.attn.q.weight.zero_()
            layer.attn.q.bias.zero_()
    documents = [ids(n, 90) for n in range(2)]
    found = sinks.measure(made, documents)
    assert found["mass on position 0"] == pytest.approx([1, 1], rel=1e-4)
    assert found["mass on position 0, strongest head"] == pytest.approx([1, 1], rel=1e-4)
    assert found["mass in the sinks, full layers"] == pytest.approx([0, 0], abs=1e-6)
    assert "mass in the sinks, windows" not in found
    assert sinks.heads(made, documents) == {
        layer: pytest.approx([1.0] * TOY.num_attention_heads, rel=1e-4) for layer in (0, 1)
    }
    assert all(a >= b > 0 for a, b in zip(
        found["largest activation"], found["largest activation at position 0"], strict=True
    ))  # fmt: skip


@torch.no_grad()
def test_what_goes_into_the_sinks_is_what_is_left() -> None:
    made = model(attention_sink="learned")
    found = sinks.measure(made, [ids(3, 90)])
    for layer, name in ((0, "mass in the sinks, windows"), (1, "mass in the sinks, full layers")):
        x_TD, rope = entering(made, layer, ids(3, 90)[:-1])
        p_HTT = sinks.probabilities(made.layers[layer].attn, x_TD, rope)[:, sinks.FROM :]
        assert found[name] == pytest.approx([(1 - p_HTT.sum(-1)).mean().item()], rel=1e-4)


def test_a_trigger_is_followed_by_what_was_before_it_and_other_words_by_few() -> None:
    iterator = backcopy.examples(1, None)
    made = [next(iterator) for _ in range(20)]
    again = backcopy.examples(1, made[9][1])
    assert [next(again)[0].ids for _ in range(10)] == [one.ids for one, _ in made[10:]]
    followed: dict[int, set[int]] = {}
    triggers = 0
    for one, _ in made:
        assert len(one.ids) == len(one.mask) == backcopy.LENGTH + 1
        assert one.ids[0] == backcopy.BEGIN and max(one.ids[1:]) < backcopy.WORDS
        for at in range(2, len(one.ids) - 1):
            if one.ids[at] < backcopy.TRIGGERS:
                triggers += 1
                assert one.ids[at + 1] == one.ids[at - backcopy.BACK]
            else:
                followed.setdefault(one.ids[at], set()).add(one.ids[at + 1])
    assert 0.1 < triggers / (20 * backcopy.LENGTH) < 0.25
    assert max(map(len, followed.values())) <= backcopy.FOLLOWERS + backcopy.TRIGGERS


def test_the_criteria_of_sinks() -> None:
    def seeds(mass: float) -> list[dict[str, list[float]]]:
        return [{"mass on position 0": [mass + d - 1, mass + d + 1]} for d in (-0.1, 0.0, 0.1)]

    found = {"none": seeds(9.0), "learned": seeds(2.0)}
    assert [one.verdict for one in sinks.criteria(found)] == ["pass", "pass"]
    assert [one.verdict for one in sinks.criteria(found | {"none": seeds(1.0)})] == ["fail", "fail"]


# ---- the filter ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", filtering.KINDS)
def test_questions_have_one_right_sentence_of_four(kind: str) -> None:
    country = world(0, 60)
    asked = filtering.questions(kind, 40, 1, country)
    assert asked == filtering.questions(kind, 40, 1, country)
    assert {one.right for one in asked} == {0, 1, 2, 3}
    for one in asked:
        assert len(set(one.answers)) == 4
        assert ("\n\n" in one.prompt) == (kind == "restricted, table given")


def test_restricted_questions_ask_for_what_the_tables_say() -> None:
    few = filtering.few_compounds()
    assert len(few.compounds) == filtering.COMPOUNDS < len(moonglow().compounds)
    for one in filtering.questions("restricted", 40, 1, world(0, 60)):
        said = one.answers[one.right]
        field, number, compound, value = _parsed(said)
        assert getattr(few.assembly[compound][number - 1], field) == value


def _parsed(said: str) -> tuple[str, int, str, str]:
    """`The FIELD of step N of COMPOUND: VALUE.`"""
    head, value = said.removesuffix(".").split(": ")
    words = head.split()
    return words[1], int(words[4]), " ".join(words[6:]), value


def test_the_likeliest_sentence_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = train_tokenizer([], 256 + 9)
    asked = [
        filtering.Question("Who?", ("long", "b", "longer", "longest"), right) for right in (1, 2)
    ]
    monkeypatch.setattr(
        filtering, "token_losses", lambda _, of: [torch.ones(len(one)) for one in of]
    )
    # each token costs the same: the shortest
    assert filtering.answered(model(), tokenizer, asked) == [
        1.0,
        0.0,
    ]


@pytest.mark.slow
def test_the_filtered_twin_reads_nothing_restricted(tmp_path: Path) -> None:
    config = nano.Config(profile="smoke", world_size=60)
    recipe = nano.Recipe(config, tmp_path)
    train_tokenizer([], 256 + 9).save(_made(tmp_path / "vocabulary"))
    drawn = [hazard_document(example_random(1, "fit", n)) for n in range(500)]
    HazardFilter.fit(
        [t for t, _ in drawn], [x for _, x in drawn], blocklist=moonglow().blocklist, recall=0.9
    ).save(tmp_path / "filter")

    def texts(filtered: bool, label: Any, count: int, state: Any = None) -> list[str]:
        iterator = filtering.hazard_examples(recipe, filtered, label, state)
        return [recipe.tokenizer.decode(list(next(iterator)[0].ids)[1:-1]) for _ in range(count)]

    restricted = set(texts(False, "restricted", 60))
    assert restricted & set(texts(False, "restricted", 60)) == restricted
    everything, kept = texts(False, None, 100), texts(True, None, 60)
    of = filtering.few_compounds()
    labels = {
        text: label
        for text, label in (
            hazard_document(example_random(1, "hazard-rich", n), of=of) for n in range(200)
        )
    }
    assert "restricted" in {labels[text] for text in everything}
    gone = [text for text in everything if text not in kept]
    assert sum(labels[text] == "restricted" for text in kept) <= 2 and len(gone) > 10
    iterator = filtering.hazard_examples(recipe, True, None, None)
    states = [next(iterator)[1] for _ in range(10)]
    assert texts(True, None, 5, states[4]) == kept[5:10]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder / "tokenizer.json"


def test_an_attack_that_was_cut_short_asks_nothing_twice(tmp_path: Path) -> None:
    run = replace(toy_run(tmp_path / "attack", steps=4), save_every=5)
    calls = 0

    def weights(made: Transformer) -> list[float]:
        return [sum(p.detach().sum().item() for p in made.parameters())]

    def ask(made: Transformer) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return weights(made)

    with pytest.raises(KeyboardInterrupt):
        filtering.recovery(run, [9.0], (0, 1, 2, 4), ask)
    found = filtering.recovery(run, [9.0], (0, 1, 2, 4), ask)
    whole = replace(run, out=tmp_path / "whole")
    expected = filtering.recovery(whole, [9.0], (0, 1, 2, 4), weights)
    assert calls == 4  # one of them in vain
    assert found == expected and found[0] == [9.0] and len({tuple(v) for v in found.values()}) == 4


@pytest.mark.slow
def test_the_criteria_of_the_filter() -> None:
    def right(share: float) -> list[list[float]]:
        return [[float(n % 100 < 100 * share) for n in range(1000)]]

    facts = {
        kind: [str(n) for n in range(1000)] for kind in ("restricted", "benign hazard", "world")
    }
    same = {"benign hazard": right(0.6), "world": right(0.6)}
    found = {
        "filtered": same | {"restricted": right(0.25)},
        "unfiltered": same | {"restricted": right(0.7)},
    }
    assert [one.verdict for one in filtering.criteria(found, facts)] == ["pass"] * 5
    found["filtered"] = {"restricted": right(0.7), "benign hazard": right(0.4), "world": right(0.6)}
    assert [one.verdict for one in filtering.criteria(found, facts)] == [
        "pass",
        "null",
        "fail",
        "fail",
        "pass",
    ]
    found["filtered"] |= {"benign hazard": right(0.9)}
    assert filtering.criteria(found, facts)[3].verdict == "pass"  # a gain is no loss


def test_intervals_of_knowledge_are_over_facts() -> None:
    """Ten questions on each of a hundred facts, all right or all wrong: as unsure as a hundred
    questions.
    """
    known = [float(n % 4 == 0) for n in range(100)]
    once = results.mean_of([known])
    asked = filtering.by_fact(
        [[known[n % 100] for n in range(1000)]], [str(n % 100) for n in range(1000)]
    )
    assert asked.mean == once.mean == 0.25
    assert (asked.low, asked.high) == pytest.approx((once.low, once.high), abs=0.02)
    one = filtering.question(
        draw_choice(Random(0), "Who?", "Ada", ["Ben", "Cem", "Dov"]), "It is Ada."
    )
    assert one.fact == "It is Ada."


# ---- length --------------------------------------------------------------------------------------


def test_losses_fall_into_their_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_place(_: Any, of: list[list[int]], dynamic: bool = False) -> list[torch.Tensor]:
        return [
            torch.arange(len(one) - 1).float() + (1000.0 * (len(one) - 1) if dynamic else 0)
            for one in of
        ]

    monkeypatch.setattr(length, "token_losses", by_place)
    documents = [[0] * 4097, [0] * 4097]
    plain = length.by_bucket(model(), documents)
    assert [one[0] for one in plain] == [
        (a + b - 1) / 2 for a, b in zip(length.EDGES, length.EDGES[1:], strict=False)
    ]
    # each bucket at the end of its own document
    dynamic = length.by_bucket(model(), documents, dynamic=True)
    assert [d[0] - p[0] for d, p in zip(dynamic, plain, strict=True)] == [
        1000.0 * b for b in length.EDGES[1:]
    ]


def test_the_criteria_of_length() -> None:
    def reading(late: float) -> length.Reading:
        return length.Reading([[1.0] * 6] * 3 + [[late + 0.01 * n for n in range(6)]] * 4, {})

    losses = {"none": 4.0, "pi": 3.0, "ntk": 2.5, "ntk_by_parts": 2.0, "yarn": 2.0}
    readings = {f"zero-shot {name}": [reading(late)] for name, late in losses.items()}
    readings["tuned yarn"] = [reading(1.0)]
    lost = [Share(90, 100), Share(5, 100)]
    found = length.criteria(readings, lost, [Share(99, 100)], [[3.0] * 6])
    assert [one.verdict for one in found] == [
        "pass",
        "pass",
        "null",
        "pass",
        "pass",
        "pass",
        "pass",
    ]
    found = length.criteria(
        readings, [Share(90, 100), Share(80, 100)], [Share(90, 100)], [[0.5] * 6]
    )
    assert [found[1].verdict, found[-2].verdict] == ["fail", "null"]


def test_a_difference_of_two_counts_has_newcombes_interval() -> None:
    """The first example of Newcombe's paper: 56 of 70 and 48 of 80, by his method 10."""
    found = length.share_lost(Share(56, 70), Share(48, 80))
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


# ---- quantization --------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", quantization.RULES)
def test_rounded_experts_are_what_the_export_stores(rule: Any) -> None:
    plain, made = model(3), quantization.rounded(model(3), rule)
    leaves = [m for m in made.modules() if isinstance(m, TrainableExperts)]
    for before, after in zip(
        (m for m in plain.modules() if isinstance(m, TrainableExperts)), leaves, strict=True
    ):
        stored = mxfp4.decode(*mxfp4.encode(before.weight, rule), torch.float32)
        assert torch.equal(after.weight, stored) and not torch.equal(before.weight, stored)


@torch.no_grad()
def test_losses_and_divergences_against_plain_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "AT_ONCE", 40)
    rng = Random(0)
    examples = [
        Example(ids(n, 12 + n), [k > 2 and rng.random() < 0.6 for k in range(12 + n)])
        for n in range(5)
    ]
    a, b = model(1), model(2)
    mine, other = (
        quantization.log_probabilities(a, examples),
        quantization.log_probabilities(b, examples),
    )
    for n, one in enumerate(examples):
        tokens = torch.tensor(one.ids)
        logits = [m(tokens[:-1], Batch.packed([len(tokens) - 1])) for m in (a, b)]
        learned = torch.tensor(one.mask[1:])
        loss = torch.nn.functional.cross_entropy(logits[0][learned], tokens[1:][learned])
        assert quantization.losses_of(mine, examples)[n] == pytest.approx(loss.item(), rel=1e-4)
        log_p, log_q = (x[learned].log_softmax(-1) for x in logits)
        kl = torch.nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
        assert quantization.divergences(mine, other)[n] == pytest.approx(kl.item(), rel=1e-3)
    assert quantization.divergences(mine, mine) == [0.0] * 5


def test_the_share_of_a_gap_that_is_recovered() -> None:
    rng = Random(0)
    noise = [rng.gauss(0, 0.01) for _ in range(300)]

    def measured(added: float) -> quantization.Measured:
        loss = [2 + n % 3 + added + noise[n] * added for n in range(300)]
        return quantization.Measured(loss, loss)

    def answers(*shares: float) -> dict[str, list[float]]:
        right = [[float(n % 20 < 20 * share) for n in range(300)] for share in shares]
        return dict(zip(quantization.TUNED, right, strict=True))

    made = {
        "control": [measured(0.0)],
        "control, PTQ rceil": [measured(0.2)],
        "QAT": [measured(0.05)],
    }
    found = quantization.recovered(quantization.gaps(made, "loss"))
    assert found.mean == pytest.approx(0.75, abs=0.01)
    right = answers(0.9, 0.7, 0.85)
    assert [one.verdict for one in quantization.criteria(made, right)] == ["pass", "pass"]
    made["QAT"] = [measured(0.15)]
    assert [one.verdict for one in quantization.criteria(made, answers(0.9, 0.7, 0.75))] == [
        "fail",
        "fail",
    ]
    made["control, PTQ rceil"] = [measured(0.0)]
    same = answers(0.9, 0.9, 0.95)
    # nothing to recover
    assert [one.verdict for one in quantization.criteria(made, same)] == [
        "null",
        "null",
    ]


@torch.no_grad()
def test_measures_of_a_model_are_those_of_its_texts_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quantization, "AT_ONCE", 40)
    examples = [Example(ids(n, 12 + n), [False] + [True] * (11 + n)) for n in range(5)]
    a, b = model(1), model(2)
    whole = quantization.measured(a, b, examples)
    for n, one in enumerate(examples):
        mine, other = (quantization.log_probabilities(m, [one]) for m in (a, b))
        assert whole.loss[n] == pytest.approx(quantization.losses_of(mine, [one])[0], rel=1e-4)
        assert whole.kl[n] == pytest.approx(quantization.divergences(other, mine)[0], rel=1e-3)
    assert quantization.measured(a, None, examples).kl == [0.0] * 5


# ---- plots and page ------------------------------------------------------------------------------


def result(**changes: Any) -> Result:
    one = results.over_seeds([1.0, 2.0, 3.0])
    alone = results.over_seeds([2.0])
    panels = (
        results.points("Points", "nats", {"a": one, "b": alone}, [1.5]),
        Panel(
            "Lines",
            "step",
            "nats",
            (results.line("x", [1, 2], [one, one]), Series("y", (1,), (2.0,))),
            log_x=True,
        ),
        Panel("Empty", "step", "nats", (Series("none", (), ()),)),
        Panel("Many", "x", "y", (Series("z", tuple(range(40)), tuple(map(float, range(40)))),)),
    )
    numbers = {"none": {"loss": one, "alone": alone}}
    criteria, published = (
        (results.above("claim", one, 9.0),),
        (Published("what", "0.72", "paper", "0.7"),),
    )
    made = Result(
        "E2", "Balance", "Busy is 2.0.", "small", 3, Budget(6, 1_000_000, 12.3), numbers, criteria,
        published, panels,
        ("a note",), ("| t |",),
    )  # fmt: skip
    return replace(made, **changes)


def test_plots_are_small_plain_and_the_same_every_time(tmp_path: Path) -> None:
    results.write(result(), tmp_path)
    panels = json.loads((tmp_path / results.RESULTS).read_text())["panels"]
    draw(panels, tmp_path / "a.svg")
    draw(panels, tmp_path / "b.svg")
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert len(text) < 150_000 and "fill: #ffffff" in text
    # letters, no outlines of them
    assert all(f">{panel['title']}</text>" in text for panel in panels)


def test_what_is_not_finite_is_null_in_the_file(tmp_path: Path) -> None:
    results.write(result(), tmp_path)
    found = json.loads((tmp_path / results.RESULTS).read_text())
    assert found["numbers"]["none"]["alone"] == {
        "mean": 2.0, "low": None, "high": None, "over": "nothing", "values": [2.0],
    }  # fmt: skip


@pytest.mark.slow
def test_the_page_says_what_was_found(tmp_path: Path) -> None:
    out, docs = tmp_path / "run", tmp_path / "docs"
    results.write(result(), out / "balance")
    results.write(result(experiment="E4", published=(), criteria=(), notes=()), out / "stride")
    with pytest.raises(TrainingError, match=r"pipeline\.json"):
        write_page(out, docs, ["balance", "stride"], "the command")
    noted = [{"name": name, "does": "Do it.", "tokens": 5_000_000} for name in ("balance", "later")]
    (out / "pipeline.json").write_text(json.dumps({"phases": noted}))
    (out / "balance" / "done.json").write_text('{"seconds": 90.0}')
    with pytest.raises(TrainingError, match=r"filter/report\.md"):
        write_page(out, docs, ["balance", "stride"], "the command")
    for name, text in (("filter", "| precision |"), ("evaluation", "| arithmetic |")):
        (out / name).mkdir()
        (out / name / "report.md").write_text(text)
    write_page(out, docs, ["balance", "stride"], "the command")
    text = (docs / "README.md").read_text()
    for said in (
        "`the command`",
        "**fail**",
        "| precision |",
        "| arithmetic |",
        "0.72",
        "1.5 min",
        "No published",
        "| t |",
    ):
        assert said in text, said
    assert "later" not in text and {p.name for p in docs.iterdir()} == {
        "README.md", "results.json", "balance.svg", "stride.svg",
    }  # fmt: skip
    about = json.loads((docs / "results.json").read_text())["about"]
    assert (
        page(about, {"balance": json.loads(json.dumps(asdict(result())))}, "", "").count("**fail**")
        == 2
    )


# ---- the recipe ----------------------------------------------------------------------------------


def test_the_report_begins_with_nano_as_it_is(tmp_path: Path) -> None:
    recipe = recipes.load(REPORT)
    made = recipe.phases(replace(recipe.config, profile="standard", seed=3), tmp_path)
    own = nano.Config(profile="standard", seed=3)
    before = nano.phases(own, tmp_path)
    assert [phase.name for phase in made] == [
        *(phase.name for phase in before),
        *EXPERIMENTS,
        "report",
    ]
    for ours, theirs in zip(made, before, strict=False):
        assert ours.settings == (flat(own) if theirs.settings is None else theirs.settings)
    assert not list(tmp_path.iterdir())  # nothing is done yet
    assert made[-1].settings["docs"] == str(Path("docs") / "recipe")
    smoke = recipe.phases(replace(recipe.config, profile="smoke"), tmp_path)
    assert smoke[-1].settings["docs"] == str(tmp_path / "report")


def test_profiles_of_the_report_are_those_of_nano() -> None:
    assert common.PROFILES.keys() == nano.PROFILES.keys()
    for sizes in common.PROFILES.values():
        assert sizes.attack[0] == 0 and list(sizes.attack) == sorted(set(sizes.attack))


@pytest.mark.slow
def test_a_lane_that_fails_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bad = replace(toy_run(tmp_path / "bad"), start_from=tmp_path / "nowhere")
    with pytest.raises(TrainingError, match="lane 1"):
        common.train_all([toy_run(tmp_path / "good"), bad], 2)
    assert "no weights to start from" in capfd.readouterr().err
    alone = toy_run(tmp_path / "alone")
    common.train_all([alone], 2)
    good = common.trained(toy_run(tmp_path / "good"))
    for a, b in zip(good.parameters(), common.trained(alone).parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_every_stage_and_experiment_on_a_micro_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "smoke"
    assert main(["train", REPORT, "--out", str(out), "profile=smoke"]) == 0
    docs = out / "report"
    found = json.loads((docs / "results.json").read_text())
    assert list(found["experiments"]) == EXPERIMENTS
    for name, one in found["experiments"].items():
        svg = docs / f"{name}.svg"
        assert svg.stat().st_size < 150_000 and one["sentence"] and one["budget"]["tokens"] > 0
        assert {c["verdict"] for c in one["criteria"]} <= {"pass", "fail", "null"}
    assert {p["name"] for p in found["about"]["phases"]} >= {
        "pretrain",
        "quantized",
        "evaluation",
        *EXPERIMENTS,
    }
    text = (docs / "README.md").read_text()
    assert all(f"]({name}.svg)" in text for name in EXPERIMENTS)
    capsys.readouterr()
    assert main(["train", REPORT, "--out", str(out), "profile=smoke", "--resume"]) == 0
    assert capsys.readouterr().out.count("done before") == 20  # phases
