"""Recorded experts: what an engine says of where tokens went, and training that follows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import ossia
from ossia import checkpoint
from ossia.config import ModelConfig
from ossia.data.packing import PackedBatch
from ossia.data.samples import Answer, Group, packed_groups
from ossia.engine import Engine, SampledToken, SamplingParams
from ossia.errors import RequestError
from ossia.harmony.render import render_for_completion
from ossia.hub import embedded
from ossia.kernels import as_in_training, not_compiled
from ossia.kernels.logprobs import logprobs
from ossia.model import Transformer
from ossia.serving import Options, prepare
from ossia.tasks.evals import cases
from ossia.tasks.registry import problems
from ossia.train.step import hidden, packed
from ossia.train.weights.export import load_weights

MICRO = ModelConfig.preset("micro")
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


def sampled(model: Transformer, count: int = 40, **settings: object) -> list[SampledToken]:
    engine = Engine(model, record_experts=True, max_batch_tokens=5, **settings)  # type: ignore[arg-type]
    return list(engine.generate(PROMPT, SamplingParams(seed=1, max_tokens=count)))


def batch_of(tokens: list[SampledToken]) -> PackedBatch:
    experts = np.array([token.experts for token in tokens], np.int16)
    ids = [token.token_id for token in tokens]
    return packed_groups([Group(PROMPT, [Answer(ids, experts=experts)])])


def chosen(model: Transformer, batch: PackedBatch) -> Tensor:
    """The experts of every token in a forward pass of training, [T, L, k]."""
    found: dict[int, Tensor] = {}
    with torch.no_grad(), as_in_training():
        model.hidden(
            torch.tensor(batch.tokens), replace(packed(batch, model.device), choices=found)
        )
    return torch.stack([found[layer] for layer in sorted(found)], dim=1)


@pytest.fixture(scope="module")
def live() -> Transformer:
    model = Transformer(MICRO).train()
    model.init_weights(0)
    return model


@pytest.mark.parametrize("exact", [False, True])
def test_an_engine_says_where_tokens_went(live: Transformer, exact: bool) -> None:
    if exact and not_compiled():
        pytest.skip(f"needs the compiled kernels: {not_compiled()}")
    batch = batch_of(sampled(live, exact=exact))
    assert batch.experts is not None
    at = batch.rows
    own = chosen(live, replace(batch, experts=None))[at]
    assert torch.equal(own, torch.tensor(batch.experts[at]).long())
    assert (batch.experts[: len(PROMPT) - 1] == -1).all()
    assert sampled(live)[0] != sampled(live)[1]


def test_of_a_prompt_all_tokens_are_asked_for(live: Transformer) -> None:
    engine = Engine(live, max_batch_tokens=3)
    found = engine.prompt_experts(PROMPT)
    batch = packed_groups([Group(PROMPT, [Answer([1])])])
    assert torch.equal(chosen(live, batch), torch.tensor(found).long())
    with pytest.raises(RequestError, match="vocabulary"):
        engine.prompt_experts([MICRO.vocab_size])


def test_without_asking_nothing_is_recorded(live: Transformer) -> None:
    tokens = list(Engine(live).generate(PROMPT, SamplingParams(seed=1, max_tokens=3)))
    assert [token.experts for token in tokens] == [None] * 3


def test_layers_without_a_router_have_none() -> None:
    model = Transformer(replace(MICRO, moe_stride=2))
    model.init_weights(0)
    experts = np.array([token.experts for token in sampled(model, 3)])
    without = [n for n in range(4) if not model.config.is_moe(n)]
    assert without
    assert (experts[:, without] == -1).all()
    assert (np.delete(experts, without, axis=1) >= 0).all()


def test_training_follows_a_given_choice_with_its_own_weights(live: Transformer) -> None:
    """The formula of the router: its logits at the given experts, softmax over those; gradients
    reach the router, sinks and every expert that was chosen.
    """
    tokens = sampled(live)
    batch = batch_of(tokens)
    assert batch.experts is not None
    turned = (batch.experts + 1) % MICRO.num_experts  # others than the router's own
    turned[batch.experts < 0] = -1
    batch = replace(batch, experts=turned)
    followed = chosen(live, batch)
    own = chosen(live, replace(batch, experts=None))
    given = torch.tensor(turned).long()
    assert torch.equal(followed[given >= 0], given[given >= 0])
    assert torch.equal(followed[: len(PROMPT) - 1, 0], own[: len(PROMPT) - 1, 0])
    x_RD, _ = hidden(live, batch)
    loss = logprobs(x_RD, live.unembedding.weight, torch.tensor(batch.targets)).sum()
    names, parameters = zip(*live.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    for layer in range(MICRO.num_hidden_layers):
        assert gradients[f"layers.{layer}.moe.router.weight"].abs().sum() > 0
        assert gradients[f"layers.{layer}.attn.sinks"].abs().min() > 0
        used = set(followed[:, layer].flatten().tolist())
        by_expert = gradients[f"layers.{layer}.moe.experts.gate_up.weight"].flatten(1).abs().sum(1)
        assert {n for n, size in enumerate(by_expert.tolist()) if size > 0} == used


def test_the_routers_formula() -> None:
    model = Transformer(MICRO)
    model.init_weights(0)
    router = model.layers[0].moe.router
    x = torch.randn(3, MICRO.hidden_size)
    given = torch.tensor([[5, 2], [-1, -1], [0, 7]])
    choice, weight, logits = router(x, given)
    assert torch.equal(choice[[0, 2]], given[[0, 2]])
    assert torch.equal(choice[1], router(x)[0][1])
    torch.testing.assert_close(weight, logits.gather(1, choice).softmax(-1))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("released") / "model"
    checkpoint.write_random(MICRO, folder, seed=2)
    yield folder


@pytest.mark.parametrize("dense", ["bf16", "int8"])
def test_compiled_leaves_record_too_and_change_no_bit(released: Path, dense: str) -> None:
    """Where rounding sends a token elsewhere than training would, training follows."""
    if not_compiled():
        pytest.skip(f"needs the compiled kernels: {not_compiled()}")
    native = checkpoint.load(released)
    prepare(native, Options(dense, dense))  # type: ignore[arg-type]
    tokens = sampled(native, 150)
    plain = list(Engine(native).generate(PROMPT, SamplingParams(seed=1, max_tokens=150)))
    assert [replace(token, experts=None, request_id=0) for token in tokens] == [
        replace(token, request_id=0) for token in plain
    ]
    trained = load_weights(MICRO, released)
    batch = batch_of(tokens)
    assert batch.experts is not None
    followed = chosen(trained, batch)[batch.rows]
    assert torch.equal(followed, torch.tensor(batch.experts[batch.rows]).long())


@pytest.mark.slow
def test_what_following_brings() -> None:
    """Of nano's answers by the 8-bit kernels: every expert is the same, and the divergence per
    token between training and engine (k3) falls by 30% or more.
    """
    if not_compiled():
        pytest.skip(f"needs the compiled kernels: {not_compiled()}")
    llm = ossia.load("nano", options=Options("int8", "int8"))
    trained = load_weights(llm.config, embedded("nano")).train()
    engine = Engine(llm.model, record_experts=True, latency_target=None)
    prompts = []
    for task in ("arithmetic", "word problems", "facts", "calculator"):
        for case in cases(problems(task, 160), ["high"]):
            prompts.append(render_for_completion(case.prompt, llm.tokenizer))
    said: dict[int, list[SampledToken]] = {}
    for n, prompt in enumerate(prompts):
        params = SamplingParams(seed=n, max_tokens=120, stop_ids=llm.params().stop_ids)
        said[engine.submit(prompt, params)] = []
    while engine.has_work():
        for token in engine.step():
            said[token.request_id].append(token)
    groups = []
    for prompt, tokens in zip(prompts, said.values(), strict=True):
        experts = np.array([token.experts for token in tokens], np.int16)
        reported = {"behaviour": [token.logprob for token in tokens]}
        answer = Answer([token.token_id for token in tokens], reported, experts=experts)
        groups.append(Group(prompt, [answer], engine.prompt_experts(prompt)))
    batch = packed_groups(groups)
    assert batch.experts is not None
    assert torch.equal(chosen(trained, batch), torch.tensor(batch.experts).long())
    own, followed = (divergence(trained, b) for b in (replace(batch, experts=None), batch))
    rng = np.random.default_rng(0)
    falls = []
    for _ in range(2000):
        some = rng.integers(0, len(groups), len(groups))
        falls.append(1 - followed[some].sum() / own[some].sum())
    low, high = np.percentile(falls, [2.5, 97.5])
    fall = 1 - followed.sum() / own.sum()
    count = len(batch.targets)
    print(f"k3 {own.sum() / count:.2e} -> {followed.sum() / count:.2e}: {fall:.0%} less")
    print(f"95% of {len(groups)} samples drawn again: {low:.0%} to {high:.0%}")
    assert low >= 0.3


def divergence(model: Transformer, batch: PackedBatch) -> NDArray[np.float64]:
    """Sums of k3 = exp(d) - d - 1, d training's log-probability less the engine's, by answer."""
    with torch.no_grad():
        x_RD, _ = hidden(model, batch)
        found = logprobs(x_RD, model.unembedding.weight, torch.tensor(batch.targets))
    d = found.double().numpy() - batch.streams["behaviour"]
    return np.bincount(batch.streams["sequence"], weights=np.exp(d) - d - 1)
