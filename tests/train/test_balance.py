"""The balancer: the same losses however a step is cut, counted loads, biases that even them out and
then vanish.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from amounts import examples
from balance_cases import EXPERTS, TINY, TOP_K, cut, documents, gradient, logits_of, routers, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ossia.batch import Batch
from ossia.checkpoint import export, load
from ossia.config import account
from ossia.errors import CheckpointError, TrainingError
from ossia.model import Transformer
from ossia.model.moe import expert_capacity
from ossia.train import balance as module
from ossia.train.balance import Balancer
from ossia.train.losses import load_balance, router_z, sequence_load_balance
from ossia.train.settings import Balance


def step(
    balancer: Balancer,
    model: Transformer,
    rounds: list[list[tuple[Tensor, list[int]]]],
    number: int = 0,
) -> list[Tensor]:
    """The losses of the parts of one step: rounds one after the other, the parts of each in
    threads.
    """
    total, out = sum(len(t) for parts in rounds for t, _ in parts), []

    def one(n: int, tokens: Tensor, lengths: list[int]) -> Tensor:
        return balancer.loss(n, logits_of(model, tokens, lengths), lengths, len(tokens) / total)

    for parts in rounds:
        balancer.begin(len(parts), number)
        with ThreadPoolExecutor(len(parts)) as pool:
            out += [
                f.result() for f in [pool.submit(one, n, *part) for n, part in enumerate(parts)]
            ]
    return out


# ---- losses ----


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_global_statistics_do_not_depend_on_how_a_step_is_cut(parts: int) -> None:
    model, (tokens, lengths) = tiny(), documents(9, 30, 4, 17, 25, 11)
    balancer = Balancer(model, Balance("aux", "global", aux=0.3, router_z=0.02), steps=10)
    seen = logits_of(model, tokens, lengths).values()
    want = sum(0.3 * load_balance(x, TOP_K) + 0.02 * router_z(x) for x in seen) / 2
    wanted = gradient([want], model)
    losses = step(balancer, model, [cut(tokens, lengths, parts)])
    torch.testing.assert_close(sum(losses), want)
    torch.testing.assert_close(gradient(losses, model), wanted, rtol=1e-4, atol=1e-7)


def test_global_statistics_grow_while_a_step_accumulates() -> None:
    """Earlier rounds are counted by later ones, in the same step only."""
    model, (tokens, lengths) = tiny(), documents(9, 30, 4, 17, 25, 11)
    balancer = Balancer(model, Balance("aux", "global", aux=1.0, router_z=0.0), steps=10)
    first, second = cut(tokens, lengths, 2)
    for number in range(2):  # nothing is carried over
        losses = step(balancer, model, [[first], [second]], number)
        balancer.end()
        alone, whole = logits_of(model, *first), logits_of(model, tokens, lengths)
        shares = [
            {
                n: torch.bincount(x.topk(TOP_K).indices.flatten(), minlength=EXPERTS)
                for n, x in s.items()
            }
            for s in (alone, whole)
        ]
        for loss, (part, its_lengths), share in zip(losses, (first, second), shares, strict=True):
            seen = logits_of(model, part, its_lengths)
            want = (
                sum(load_balance(x, TOP_K, share[n]) for n, x in seen.items())
                / 2
                * len(part)
                / len(tokens)
            )
            torch.testing.assert_close(loss, want)


@pytest.mark.parametrize("statistics", ["micro", "sequence"])
def test_local_statistics(statistics: str) -> None:
    model, (tokens, lengths) = tiny(), documents(9, 30, 4, 17)
    balancer = Balancer(model, Balance("aux", statistics, aux=1.0, router_z=0.0), steps=10)  # type: ignore[arg-type]
    parts = cut(tokens, lengths, 2)
    for loss, (part, its_lengths) in zip(step(balancer, model, [parts]), parts, strict=True):
        seen = logits_of(model, part, its_lengths).values()
        each = [
            load_balance(x, TOP_K)
            if statistics == "micro"
            else sequence_load_balance(x, TOP_K, its_lengths)
            for x in seen
        ]
        torch.testing.assert_close(loss, sum(each) / 2 * len(part) / len(tokens))


@pytest.mark.parametrize("mode", ["none", "bias"])
def test_without_an_auxiliary_loss_the_z_loss_remains(mode: str) -> None:
    model, (tokens, lengths) = tiny(), documents(20, 30)
    balancer = Balancer(model, Balance(mode, router_z=0.5), steps=10)  # type: ignore[arg-type]
    want = 0.5 * sum(router_z(x) for x in logits_of(model, tokens, lengths).values()) / 2
    torch.testing.assert_close(sum(step(balancer, model, [[(tokens, lengths)]])), want)
    assert all((r.selection_bias is None) == (mode == "none") for r in routers(model))


def test_a_part_that_fails_does_not_leave_the_others_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, (tokens, lengths) = tiny(), documents(20)
    balancer = Balancer(model, Balance("aux", "global"), steps=10)
    seen = logits_of(model, tokens, lengths)
    balancer.begin(2, 0)
    threading.Timer(0.1, balancer.abort).start()
    with pytest.raises(TrainingError, match="a part of the step failed"):
        balancer.loss(0, seen, lengths, 0.5)
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    balancer.begin(2, 0)
    with pytest.raises(TrainingError, match="did not come"):
        balancer.loss(0, seen, lengths, 0.5)


def test_processes_agree_with_one(two: Path) -> None:
    """Two processes, each with a part of a step: their losses add up, they move their biases alike,
    and hand them over to biases of routers that are cut in two.
    """
    found = [torch.load(two / "balance" / f"found-{n}.pt") for n in range(2)]
    parts, more = cut(*documents(9, 30, 4, 17, 25, 11), 2), documents(8)
    for n, mode in enumerate(("aux", "bias")):
        model = tiny()
        balancer = Balancer(model, Balance(mode, "global"), steps=10)  # type: ignore[arg-type]
        balancer.begin(1, 0)
        tokens, lengths = torch.cat([t for t, _ in parts]), [x for _, ls in parts for x in ls]
        loss = balancer.loss(0, logits_of(model, tokens, lengths), lengths, 1.0)
        balancer.begin(1, 0)
        balancer.loss(0, logits_of(model, *more), more[1], 0.1)
        metrics = balancer.end()
        assert sum(f[n][0] for f in found) == pytest.approx(float(loss.detach()), rel=1e-5)
        both = found[0][n][1] + found[1][n][1]
        torch.testing.assert_close(both, gradient([loss], model), rtol=1e-4, atol=1e-8)
        for _, _, theirs, shares, state in (f[n] for f in found):
            assert theirs == pytest.approx(metrics, rel=1e-5) and shares == balancer.load
            for layer, bias in balancer.state_dict()["biases"].items():
                assert torch.equal(state["biases"][layer], bias)
    logits = logits_of(model, tokens, lengths)
    for number in range(1, 10):
        balancer.begin(1, number)
        balancer.loss(0, logits, lengths, 1.0)
        balancer.end()
    for router, *theirs in zip(routers(model), found[0][2], found[1][2], strict=True):
        torch.testing.assert_close(theirs[0], router.bias.detach())
        assert torch.equal(*theirs) and bool(router.bias.any())


# ---- metrics ----


@settings(max_examples=examples(15), deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=5),
    st.none() | st.floats(0.3, 1.5),
    st.integers(0, 99),
)
def test_metrics_are_those_of_the_whole_step(
    lengths: list[int], capacity: float | None, seed: int
) -> None:
    model, (tokens, lengths) = tiny(seed=seed), documents(*lengths, seed=seed)
    balancer = Balancer(model, Balance("none", capacity=capacity), steps=10)
    parts = cut(tokens, lengths, 2)
    step(balancer, model, [parts])
    metrics = balancer.end()
    violation, entropy, dead, dropped, layers = 0.0, 0.0, 0, 0, 2
    counted = {
        n: [Counter(x.topk(TOP_K).indices.flatten().tolist()) for x in xs]
        for n, xs in per_layer(model, parts).items()
    }
    for n, counts in counted.items():
        load = [sum(c[e] for c in counts) for e in range(EXPERTS)]
        assert balancer.load[n] == pytest.approx([x / sum(load) for x in load])
        violation += max(load) / (sum(load) / EXPERTS) - 1
        entropy -= sum(x / sum(load) * math.log(x / sum(load)) for x in load if x) / math.log(
            EXPERTS
        )
        dead += load.count(0)
        if capacity is not None:
            for c, (part, _) in zip(counts, parts, strict=True):
                most = max(4, math.ceil(capacity * TOP_K * len(part) / EXPERTS))
                dropped += sum(max(0, c[e] - most) for e in range(EXPERTS))
    assert metrics["max_violation"] == pytest.approx(violation / layers)
    assert metrics["entropy"] == pytest.approx(entropy / layers)
    assert metrics["dead"] == dead
    assert metrics["dropped"] == pytest.approx(dropped / (layers * TOP_K * len(tokens)))


def per_layer(model: Transformer, parts: list[tuple[Tensor, list[int]]]) -> dict[int, list[Tensor]]:
    seen = [logits_of(model, *part) for part in parts]
    return {n: [s[n] for s in seen] for n in seen[0]}


def test_balance_and_z_are_reported_in_every_mode() -> None:
    model, (tokens, lengths) = tiny(), documents(30, 40)
    seen = logits_of(model, tokens, lengths).values()
    for mode in ("none", "aux", "bias"):
        balancer = Balancer(model, Balance(mode), steps=10)  # type: ignore[arg-type]
        step(balancer, model, [cut(tokens, lengths, 2)])
        metrics = balancer.end()
        assert metrics["balance"] == pytest.approx(
            float(sum(load_balance(x, TOP_K) for x in seen).detach()) / 2, rel=1e-5
        )
        assert metrics["router_z"] == pytest.approx(
            float(sum(router_z(x) for x in seen).detach()) / 2, rel=1e-5
        )


@pytest.mark.parametrize(
    ("factor", "tokens", "capacity"), [(1.25, 100, 63), (1.0, 100, 50), (1.0, 5, 4), (2.0, 64, 64)]
)
def test_capacity(factor: float, tokens: int, capacity: int) -> None:
    assert expert_capacity(factor, tokens, TOP_K, EXPERTS) == capacity


def test_a_balancer_decides_over_capacity_and_biases_of_its_model() -> None:
    """Whatever the run before has left there."""
    model, (tokens, lengths) = tiny(), documents(40, 40)
    whole = model(tokens, Batch.packed(lengths))
    Balancer(model, Balance("bias", capacity=0.3), steps=10)
    assert not torch.allclose(model(tokens, Batch.packed(lengths)), whole)
    Balancer(model, Balance("aux"), steps=10)
    assert torch.equal(model(tokens, Batch.packed(lengths)), whole)
    assert all(r.selection_bias is None for r in routers(model))


def test_a_step_that_was_given_up_is_not_counted() -> None:
    model = tiny()
    balancer = Balancer(model, Balance("aux", "global"), steps=10)
    step(balancer, model, [[documents(50, seed=1)]], 0)
    step(balancer, model, [[documents(60, seed=2)]], 1)
    metrics = balancer.end()
    step(balancer, model, [[documents(60, seed=2)]], 2)
    assert balancer.end() == metrics


# ---- selection bias ----


def test_the_bias_chooses_and_does_not_weigh() -> None:
    router = routers(tiny())[0]
    x = torch.randn(50, 32)
    router.selection_bias = torch.tensor([9.0, 0.0, 9.0, 0.0])
    choice, weight, logits = router(x)
    assert set(choice.flatten().tolist()) == {0, 2}
    torch.testing.assert_close(weight, logits.gather(1, choice).softmax(-1))
    router.selection_bias.zero_()
    with_zeros = router(x)
    router.selection_bias = None
    assert all(torch.equal(a, b) for a, b in zip(with_zeros, router(x), strict=True))


def test_a_step_moves_the_bias_against_the_load() -> None:
    model, (tokens, lengths) = tiny(), documents(60)
    balancer = Balancer(model, Balance("bias", bias_rate=0.25), steps=100)
    step(balancer, model, [[(tokens, lengths)]])
    balancer.end()
    for router, shares in zip(routers(model), balancer.load, strict=True):
        assert router.selection_bias is not None
        want = [0.25 if x < 1 / EXPERTS else -0.25 if x > 1 / EXPERTS else 0.0 for x in shares]
        assert router.selection_bias.tolist() == want


@pytest.mark.parametrize("steps", [1, 3, 40])
@pytest.mark.parametrize("frozen", [True, False])
def test_biases_even_out_the_load_and_end_at_exactly_zero(
    steps: int, frozen: bool, tmp_path: Path
) -> None:
    """A router that sends all to two experts is evened out, and stays so where its own bias takes
    over; a finished run exports what it has trained.
    """
    model, (tokens, lengths) = tiny(), documents(64, 64)
    for router in routers(model):
        router.bias.data[:2] += 3
        router.bias.requires_grad_(not frozen)
    balancer = Balancer(model, Balance("bias", bias_rate=0.2), steps)
    violations, sizes = [], []
    for number in range(steps):
        step(balancer, model, [cut(tokens, lengths, 2)], number)
        violations.append(balancer.end()["max_violation"])
        sizes.append(max(float(b.abs().max()) for b in balancer.state_dict()["biases"].values()))
        if sizes[-1]:
            with pytest.raises(CheckpointError, match="selection bias"):
                export(model, tmp_path / "no")
            assert not (tmp_path / "no").exists()
    assert sizes[-1] == 0.0
    if steps == 40:
        assert violations[0] > 0.8 and violations[27] < 0.3
        assert sizes[27] > sizes[31] > sizes[34] > 0 == max(sizes[35:]), (
            "fades from 70% to 90% of the run"
        )
        assert violations[-1] == violations[0] if frozen else violations[-1] < 0.3
    export(model.requires_grad_(False), tmp_path / "m", "hf-bf16", floats="float32")
    again = load(tmp_path / "m", "float32")
    found, want = (m(tokens, Batch.packed(lengths)) for m in (again, model.eval()))
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)
    assert float(want.std()) > 0.1, "another choice of experts would show"


def test_state_comes_back_and_another_one_is_refused() -> None:
    model, (tokens, lengths) = tiny(), documents(64)
    balancer = Balancer(model, Balance("bias"), steps=50)
    step(balancer, model, [[(tokens, lengths)]])
    balancer.end()
    other = Balancer(again := tiny(), Balance("bias"), steps=50)
    other.load_state_dict(balancer.state_dict())
    for a, b in zip(routers(model), routers(again), strict=True):
        assert a.selection_bias is not None and b.selection_bias is not None
        assert torch.equal(a.selection_bias, b.selection_bias) and bool(a.selection_bias.any())
    assert not [name for name in model.state_dict() if "selection" in name]
    with pytest.raises(TrainingError, match=r"balance\.mode"):
        Balancer(tiny(), Balance("aux"), steps=50).load_state_dict(balancer.state_dict())
    with pytest.raises(TrainingError, match="one value an expert"):
        Balancer(tiny(replace(TINY, num_experts=8)), Balance("bias"), 50).load_state_dict(
            balancer.state_dict()
        )


# ---- stride ----


@pytest.mark.parametrize(("stride", "layers"), [(1, [0, 1, 2, 3]), (2, [1, 3]), (4, [3]), (9, [])])
def test_dense_layers_train_beside_layers_with_experts(
    stride: int, layers: list[int], tmp_path: Path
) -> None:
    """Routers where the stride says, none elsewhere; parameters as accounted; the same model after
    the round trip through OpenAI's layout.
    """
    config = replace(TINY, num_hidden_layers=4, layer_types=(), moe_stride=stride)
    model, (tokens, lengths) = tiny(config), documents(20, 30)
    assert sum(p.numel() for p in model.parameters()) == account(config).total
    balancer = Balancer(model, Balance("aux"), steps=20)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    history = []
    for number in range(12):
        seen: dict[int, Tensor] = {}
        logits = model(tokens, Batch.packed(lengths, router_logits=seen))
        assert list(seen) == layers
        loss = torch.nn.functional.cross_entropy(logits[:-1], tokens[1:])
        balancer.begin(1, number)
        optimizer.zero_grad()
        (loss + balancer.loss(0, seen, lengths, 1.0)).backward()
        optimizer.step()
        metrics = balancer.end()
        history.append(float(loss.detach()))
        assert len(balancer.load) == len(layers) and bool(metrics) == bool(layers)
    assert all(p.grad is not None for p in model.parameters())
    assert history[-1] < history[0] - 0.5
    export(model, tmp_path / "m", "original", floats="float32")
    again = load(tmp_path / "m", "float32")
    assert again.config == config
    for layer in model.layers:
        for leaf in (layer.moe.experts.gate_up, layer.moe.experts.down):
            leaf.fake_quantize = True
    torch.testing.assert_close(
        again(tokens, Batch.packed(lengths)),
        model.eval()(tokens, Batch.packed(lengths)),
        rtol=1e-4,
        atol=1e-5,
    )
