"""The losses against enumeration: a policy of two tokens, every group there can be, in float64."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ossia.data.packing import split
from ossia.errors import TrainingError
from ossia.train.rl import correction
from ossia.train.rl import policy as policies
from ossia.train.rl.advantage import Advantage, advantages, is_dead
from ossia.train.rl.batches import Lesson, packed
from ossia.train.rl.objectives import (
    LOSSES,
    Sampled,
    is_clipped,
    kl_from,
    kl_to,
    token_losses,
)
from ossia.train.rl.settings import Correction, Loss, Objective, Sampling
from ossia.turn.record import Piece, Segment

V = 5
PARTS = ((0, 1), (1, 4))
SEQUENCES = list(itertools.product(range(V), range(V)))


class Policy:
    """p(a, b) of two tokens, of which the second may depend on the first."""

    def __init__(self, seed: int, spread: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.first_V = torch.randn(V, generator=generator, dtype=torch.float64) * spread
        self.second_VV = torch.randn(V, V, generator=generator, dtype=torch.float64) * spread
        self.first_V.requires_grad_()
        self.second_VV.requires_grad_()

    def logs(self) -> Tensor:
        """[25, 2]: of both tokens of every sequence."""
        first = self.first_V.log_softmax(0)
        second = self.second_VV.log_softmax(1)
        return torch.stack([torch.stack([first[a], second[a, b]]) for a, b in SEQUENCES])

    def gradient(self, value: Tensor) -> Tensor:
        """[30]: of `value`, as one vector."""
        found = torch.autograd.grad(value, [self.first_V, self.second_VV], allow_unused=True)
        likes = (self.first_V, self.second_VV)
        parts = [
            torch.zeros_like(like) if part is None else part
            for part, like in zip(found, likes, strict=True)
        ]
        return torch.cat([part.flatten() for part in parts])


PI, PHI = Policy(0), Policy(1, 0.5)
REWARD = torch.rand(len(SEQUENCES), generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def true_gradient() -> Tensor:
    """Of E[R]."""
    return PI.gradient((PI.logs().sum(1).exp() * REWARD).sum())


def expected_gradient(
    size: int,
    kind: Advantage,
    loss: Loss = "reinforce",
    sampler: Policy = PI,
    weigh: Any = lambda *of: torch.ones_like(of[0]),
    aged: bool = False,
) -> Tensor:
    """Minus the expected gradient of a step of one group of `size` samples of `sampler`. `aged`: by
    weights that have had updates since then.
    """
    groups = list(itertools.product(range(len(SEQUENCES)), repeat=size))
    sampled = torch.tensor(groups)
    behaviour = sampler.logs().detach()
    chance = behaviour.sum(1)[sampled].sum(1).exp()
    found = [advantages([REWARD[n].item() for n in group], kind) for group in groups]
    values = torch.tensor(
        [[0.0 if value is None else value for value in group] for group in found],
        dtype=torch.float64,
    )
    now = PI.logs()[sampled].reshape(-1)
    measured = behaviour[sampled].reshape(-1)
    keep = torch.ones_like(measured)
    sequence = torch.arange(sampled.numel()).repeat_interleave(2)
    old = measured if aged else now.detach()
    batch = Sampled(
        now,
        old,
        values.reshape(-1).repeat_interleave(2),
        keep,
        weigh(old - measured, keep, sequence),
        sequence,
    )
    of_groups = token_losses(loss, batch).view(len(groups), -1).sum(1) / size
    return -PI.gradient((chance * of_groups).sum())


def near(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).abs().max() < 1e-10)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_on_policy_the_expected_gradient_is_that_of_the_reward(size: int, loss: Loss) -> None:
    """Of all losses: at rho = 1 no clip is at work."""
    wanted = true_gradient()
    assert wanted.abs().max() > 1e-2
    assert near(expected_gradient(size, "rloo", loss), wanted)
    assert near(expected_gradient(size, "centered", loss), wanted * (size - 1) / size)


def test_off_policy_whole_sequences_are_corrected_without_bias() -> None:
    found = expected_gradient(2, "rloo", sampler=PHI, weigh=correction.of_sequences)
    assert near(found, true_gradient())
    assert not near(expected_gradient(2, "rloo", sampler=PHI), true_gradient())


def test_what_correcting_token_by_token_leaves() -> None:
    """Each token is the policy's, and what stands around it the sampler's."""
    pi, phi = PI.logs(), PHI.logs().detach()
    first_of_pi = ((pi[:, 0] + phi[:, 1]).exp() * REWARD).sum()
    second_of_pi = ((phi[:, 0] + pi[:, 1]).exp() * REWARD).sum()
    closed = PI.gradient(first_of_pi + second_of_pi)
    found = expected_gradient(2, "rloo", sampler=PHI, weigh=correction.of_tokens)
    assert near(found, closed)
    assert not near(found, true_gradient())


def test_what_a_cap_leaves() -> None:
    """Nothing but what is above it; and a baseline that no longer vanishes."""

    def capped(log_R: Tensor, keep_R: Tensor, sequence_R: Tensor) -> Tensor:
        return correction.WEIGHTS["seq_tis"](log_R, keep_R, sequence_R)

    pi, phi = PI.logs().sum(1), PHI.logs().sum(1).detach()
    weight = torch.minimum(pi.detach().exp(), correction.TIS_MOST * phi.exp())
    assert (weight < pi.exp()).any()
    baseline = (phi.exp() * REWARD).sum()
    closed = PI.gradient((weight * (REWARD - baseline) * pi).sum())
    assert near(expected_gradient(2, "rloo", sampler=PHI, weigh=capped), closed)


def first_token() -> Tensor:
    """[V]: log-probabilities of the first token, whatever the second."""
    return PI.logs()[::V, 0]


def test_both_gradients_of_the_divergence() -> None:
    reference = PHI.logs()[::V, 0].detach()
    chance = first_token().detach().exp()
    now = first_token()
    to_policy = PI.gradient((reference.exp() * (reference - now)).sum())
    assert near(PI.gradient((chance * kl_to(first_token(), reference)).sum()), to_policy)
    now = first_token()
    from_policy = PI.gradient((now.exp() * (now - reference)).sum())
    now = first_token()
    estimate = (chance * kl_from(now, now.detach(), reference)).sum()
    assert estimate.item() == pytest.approx((chance * (now.detach() - reference)).sum().item())
    assert near(PI.gradient(estimate), from_policy)
    assert not near(to_policy, from_policy)


# ---- several updates on one batch ----------------------------------------------------------------


def slope_by_hand(loss: Loss, ratio: float, advantage: float) -> float:
    """What multiplies a token's gradient of log p, written out as the papers say it."""
    match loss:
        case "reinforce":
            return ratio * advantage
        case "cispo":
            return min(ratio, 5.0) * advantage
        case "clip" if advantage >= 0:
            return ratio * advantage if ratio <= 1.28 else 0.0
        case "clip":
            return ratio * advantage if 0.8 <= ratio <= 3.0 else 0.0
    raise AssertionError(loss)


def gradient_by_hand(loss: Loss, old: Policy) -> tuple[Tensor, int, int]:
    """Of all groups of two samples of an older policy; and in how many of the tokens the loss
    differs from `reinforce`, upwards and downwards.
    """
    pi = PI.logs()
    ratios = (pi.detach() - old.logs().detach()).exp()
    chance = old.logs().detach().sum(1).exp()
    weight = torch.zeros_like(ratios)
    changed = [0, 0]
    for one, other in itertools.product(range(len(SEQUENCES)), repeat=2):
        advantage = (REWARD[one] - REWARD[other]).item()
        if one == other:
            continue  # a dead group
        for token in range(2):
            ratio = ratios[one, token].item()
            slope = slope_by_hand(loss, ratio, advantage)
            weight[one, token] += chance[one] * chance[other] * slope
            changed[advantage < 0] += slope != ratio * advantage
    return PI.gradient((weight * pi).sum()), changed[0], changed[1]


@pytest.mark.parametrize("loss", ["reinforce", "clip", "cispo"])
@pytest.mark.parametrize("far", [False, True])
def test_later_updates_are_clipped_as_the_papers_say(loss: Loss, far: bool) -> None:
    """The old policy is the one that sampled, so M = O and no token is corrected for."""
    old = Policy(1, 3.0) if far else Policy(0, 0.5)
    wanted, upwards, downwards = gradient_by_hand(loss, old)
    assert near(expected_gradient(2, "rloo", loss, sampler=old, aged=True), wanted)
    if loss == "clip":
        assert upwards and downwards
    if loss == "cispo":
        assert bool(upwards) == far
    if not upwards:
        assert near(wanted, gradient_by_hand("reinforce", old)[0])


# ---- away from rho = 1 ---------------------------------------------------------------------------


def one(ratio: float, advantage: float) -> Sampled:
    now = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    value = torch.tensor([advantage], dtype=torch.float64)
    ones = torch.ones(1, dtype=torch.float64)
    return Sampled(
        now, torch.zeros_like(ones), value, ones, ones, torch.zeros(1, dtype=torch.int32)
    )


@pytest.mark.parametrize(
    ("loss", "ratio", "advantage", "value", "slope"),
    [
        ("reinforce", 3.0, 2.0, -6.0, -6.0),
        ("clip", 1.2, 1.0, -1.2, -1.2),
        ("clip", 1.5, 1.0, -1.28, 0.0),  # gone far enough upwards
        ("clip", 0.5, 1.0, -0.5, -0.5),
        ("clip", 0.5, -1.0, 0.8, 0.0),  # and downwards
        ("clip", 2.0, -1.0, 2.0, 2.0),
        ("clip", 4.0, -1.0, 3.0, 0.0),  # the second end
        ("gspo", 1.0002, 1.0, -1.0002, -1.0002),
        ("gspo", 1.1, 1.0, -1.0004, 0.0),
        ("gspo", 0.9, -1.0, 0.9997, 0.0),
        ("gspo", 0.9, 1.0, -0.9, -0.9),
        ("cispo", 2.0, 1.0, -2 * math.log(2), -2.0),
        ("cispo", 9.0, 1.0, -5 * math.log(9), -5.0),
    ],
)
def test_a_token_by_itself(
    loss: Loss, ratio: float, advantage: float, value: float, slope: float
) -> None:
    sampled = one(ratio, advantage)
    found = token_losses(loss, sampled).sum()
    assert found.item() == pytest.approx(value, abs=1e-12)
    (gradient,) = torch.autograd.grad(found, sampled.now_R)
    assert gradient.item() == pytest.approx(slope, abs=1e-12)
    cut = slope == 0 or (loss == "cispo" and ratio > 5)
    assert is_clipped(loss, sampled).item() == cut


def test_what_is_not_kept_has_no_part_and_no_gradient() -> None:
    """Not even where it is not finite."""
    sampled = one(1.0, 1.0)
    now = torch.tensor([0.1, -math.inf], dtype=torch.float64, requires_grad=True)
    both = replace(
        sampled,
        now_R=now,
        old_R=torch.zeros(2, dtype=torch.float64),
        advantage_R=torch.ones(2, dtype=torch.float64),
        keep_R=torch.tensor([1.0, 0.0], dtype=torch.float64),
        weight_R=torch.ones(2, dtype=torch.float64),
        sequence_R=torch.zeros(2, dtype=torch.int32),
    )
    for loss in LOSSES:
        values = token_losses(loss, both)
        assert values[1] == 0
        assert torch.isfinite(values).all()


# ---- advantages ----------------------------------------------------------------------------------


def test_advantages_of_a_group() -> None:
    assert advantages([1.0, 0.0, 0.0, 1.0], "centered") == [0.5, -0.5, -0.5, 0.5]
    assert advantages([1.0, 0.0], "rloo") == [1.0, -1.0]
    assert advantages([3.0, 1.0], "std") == pytest.approx([1 / (1 + 1e-6), -1 / (1 + 1e-6)])
    assert advantages([1.0, 0.0, 0.0, 0.0], "maxrl") == [3.0, -1.0, -1.0, -1.0]


def test_what_could_not_be_graded_takes_no_part() -> None:
    assert advantages([1.0, None, 0.0], "centered") == [0.5, None, -0.5]
    assert advantages([None, None], "rloo") == [None, None]


def test_a_group_is_dead_only_if_its_rewards_are_the_same_to_the_bit() -> None:
    assert is_dead([0.3, 0.3, None])
    assert not is_dead([0.3, 0.1 + 0.2])
    assert advantages([0.7, 0.7], "std") == [None, None]
    assert is_dead([1.0])


def test_maxrl_refuses_negative_rewards() -> None:
    with pytest.raises(TrainingError, match=r"0 or more.*choose another advantage"):
        advantages([-1.0, 1.0], "maxrl")


# ---- corrections and measures --------------------------------------------------------------------


def test_equal_log_probabilities_are_not_corrected() -> None:
    logs = torch.randn(6)
    keep, sequence = torch.ones(6), torch.tensor([0, 0, 1, 1, 2, 2])
    for kind in correction.WEIGHTS:
        assert correction.weights(kind, logs, logs, keep, sequence).tolist() == [1.0] * 6
    sums, most = correction.mismatch(logs, logs, keep / 6)
    assert most == {"largest": 0.0}
    assert (sums["mean"], sums["k3"]) == (0.0, 0.0)
    assert sums["equal"] == pytest.approx(1.0)
    assert correction.effective(sums["weight"], sums["square"]) == pytest.approx(1.0)


def test_corrections_of_what_differs() -> None:
    old = torch.tensor([0.0, 0, 0, 0], dtype=torch.float64)
    behaviour = -torch.tensor([1.0, 0.25, 0.004, 0.008], dtype=torch.float64)
    keep, sequence = torch.ones(4), torch.tensor([0, 0, 1, 1])

    def found(kind: Correction) -> list[float]:
        weights: list[float] = correction.weights(kind, old, behaviour, keep, sequence).tolist()
        return weights

    e = math.exp
    assert found("tis") == pytest.approx([2.0, e(0.25), e(0.004), e(0.008)])
    assert found("mis") == pytest.approx([0.0, e(0.25), e(0.004), e(0.008)])
    assert found("seq_tis") == pytest.approx([2.0, 2.0, e(0.012), e(0.012)])
    assert found("seq_mis") == pytest.approx([0.0, 0.0, e(0.012), e(0.012)])
    assert found("geo") == [0.0, 0.0, 1.0, 1.0]
    share = torch.tensor([0.5, 0, 0, 0.5])
    measured, most = correction.mismatch(old, behaviour, share)
    assert most["largest"] == 1.0
    assert measured["mean"] == pytest.approx(0.504)
    weights = [e(1.0), e(0.008)]
    ess = sum(weights) ** 2 / (2 * sum(w * w for w in weights))
    assert correction.effective(measured["weight"], measured["square"]) == pytest.approx(ess)


def test_the_mismatch_is_of_a_whole_step() -> None:
    """One part's difference alone would be too far; the step's is not."""
    old = torch.zeros(4, dtype=torch.float64)
    behaviour = torch.tensor([0.1, 0.0, 0.0, 0.0], dtype=torch.float64)
    share = torch.full((4,), 0.25)
    whole, _ = correction.mismatch(old, behaviour, share)
    parts = [correction.mismatch(old[a:b], behaviour[a:b], share[a:b])[0] for a, b in PARTS]
    added = {name: sum(part[name] for part in parts) for name in whole}
    assert added == pytest.approx(whole)
    policy = policies.Policy(Objective(), Sampling())
    metrics = {f"mismatch_{name}": value for name, value in added.items()}
    found = policy.measured(metrics)
    assert found["mismatch_mean"] == pytest.approx(0.025)
    assert found["mismatch_equal"] == pytest.approx(0.75)
    with pytest.raises(TrainingError, match="another model"):
        policy.measured(metrics | {"mismatch_mean": 0.06})


def test_the_segments_of_a_sample_count_once() -> None:
    def segment(prompt: int, count: int) -> Segment:
        return Segment((prompt,), (Piece(tuple(range(count)), (0.0,) * count),))

    two = Lesson((segment(1, 2), segment(2, 6)), 1.0)
    one = Lesson((segment(1, 4),), -1.0)
    batch = packed([[two, one]])
    assert batch is not None
    prepared = policies.Policy(Objective(normalizer="samples"), Sampling()).prepare(batch)
    assert prepared is not None
    weight = prepared.streams["weight"]
    first = batch.streams["advantage"] > 0
    assert weight[first].tolist() == pytest.approx([1 / 16] * 8)
    assert weight[~first].tolist() == pytest.approx([1 / 8] * 4)


def test_a_sample_is_in_one_part() -> None:
    """What is added up over its tokens is then the same however a step is cut."""

    def segment(prompt: int, count: int) -> Segment:
        return Segment((prompt,), (Piece(tuple(range(count)), (0.0,) * count),))

    asks = []
    for ask in range(6):
        taught = [
            Lesson(
                tuple(segment(10 * ask + 100 * n * (turn > 0) + turn, 5) for turn in range(3)), 1.0
            )
            for n in range(3)
        ]
        asks.append(taught)
    batch = packed(asks)
    assert batch is not None
    parts = split(batch, 4)
    assert len(parts) == 4
    found = [set(part.streams["sample"].tolist()) for part in parts]
    assert sum(map(len, found)) == len(set().union(*found)) == 18
