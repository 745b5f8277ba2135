"""Context extension: every method's angles against its paper and transformers, and the two measures
against plain evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import GptOssConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ossia.batch import Batch
from ossia.config import ModelConfig
from ossia.errors import ConfigError
from ossia.model import Transformer
from ossia.model.rope import concentration, inverse_frequencies
from ossia.tasks.long.needles import Needle
from ossia.tasks.long.needles import needle as tasks_needle
from ossia.train import length as module
from ossia.train.length import (
    Method,
    needle_accuracy,
    scaled,
    stages,
    token_losses,
    using,
)

B20, NANO = ModelConfig.preset("gpt-oss-20b"), ModelConfig.preset("nano")
TINY = replace(
    NANO, num_hidden_layers=2, layer_types=(), hidden_size=32, intermediate_size=32, num_experts=4,
    num_attention_heads=2, num_key_value_heads=1, head_dim=16, vocab_size=128, sliding_window=8,
    initial_context_length=32, rope_ntk_beta=4.0, rope_scaling="none", rope_scaling_factor=1.0,
)  # fmt: skip
METHODS: tuple[Method, ...] = ("none", "pi", "ntk", "ntk_by_parts", "yarn", "dynamic")


# ---- angles ----


def published(
    config: ModelConfig, length: int, method: Method
) -> tuple[NDArray[np.float64], float]:
    """(angles per position, factor on cos and sin) by the formulas of the papers, in float64.

    arXiv 2306.15595 (PI) and 2309.00071 (NTK-aware: sec. 3.1, by parts: 3.2, dynamic: 3.3, YaRN:
    3.4). The published gpt-oss and transformers interpolate YaRN linearly in the dimension, not in
    r.
    """
    width, base, first = config.head_dim, float(config.rope_theta), config.initial_context_length
    s = max(1.0, length / first)
    d = np.arange(width // 2, dtype=np.float64)
    theta = base ** (-2 * d / width)
    alpha, beta = config.rope_ntk_alpha, config.rope_ntk_beta
    if method == "pi":
        return theta / s, 1.0
    if method in ("ntk", "dynamic"):
        return (base * s ** (width / (width - 2))) ** (-2 * d / width), 1.0
    if method == "ntk_by_parts":
        r = first / (2 * np.pi / theta)
        gamma = np.where(r < alpha, 0, np.where(r > beta, 1, (r - alpha) / (beta - alpha)))
        return (1 - gamma) * theta / s + gamma * theta, 1.0
    if method == "yarn":
        # r = beta and r = alpha, solved for the dimension
        low, high = (
            width * np.log(first / (r * 2 * np.pi)) / (2 * np.log(base)) for r in (beta, alpha)
        )
        if config.rope_truncate:
            low, high = np.floor(low), np.ceil(high)
        ramp = np.clip((d - max(low, 0)) / (min(high, width - 1) - max(low, 0)), 0, 1)
        return ramp * theta / s + (1 - ramp) * theta, 0.1 * np.log(s) + 1
    return theta, 1.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("config", [B20, NANO, TINY], ids=["20b", "nano", "tiny"])
@pytest.mark.parametrize("factor", [0.5, 1.0, 1.7, 8.0, 32.0])
def test_every_method_is_as_published(config: ModelConfig, method: Method, factor: float) -> None:
    length = round(config.initial_context_length * factor)
    ours = scaled(config, length, method)
    want, temperature = published(config, length, method)
    np.testing.assert_allclose(inverse_frequencies(ours).double().numpy(), want, rtol=2e-6)
    assert concentration(ours) == pytest.approx(temperature, rel=1e-12)
    assert (
        ours.max_context_length == length
        and ours.initial_context_length == config.initial_context_length
    )


def test_the_published_model_is_the_yarn_stage_of_its_own_config() -> None:
    assert stages(B20, ((131072, 1),), "yarn")[0].config == B20
    assert stages(NANO, ((2048, 1),), "yarn")[0].config == NANO


@pytest.mark.parametrize("config", [B20, NANO], ids=["20b", "nano"])
@pytest.mark.parametrize("factor", [1, 2, 8, 32])
@pytest.mark.parametrize("method", ["linear", "dynamic", "yarn"])
def test_transformers_computes_the_same(config: ModelConfig, factor: int, method: str) -> None:
    length = config.initial_context_length * factor
    rope: dict[str, Any] = {
        "rope_type": method,
        "rope_theta": config.rope_theta,
        "factor": float(factor),
    }
    longest, kwargs = length, {}
    if method == "dynamic":  # whose factor is a share to add to L' / L0, and whose L0 is this key
        rope["factor"], longest, kwargs = 1.0, config.initial_context_length, {"seq_len": length}
    if method == "yarn":
        rope |= {"beta_fast": config.rope_ntk_beta, "beta_slow": config.rope_ntk_alpha}
        rope |= {"truncate": config.rope_truncate}
        rope |= {"original_max_position_embeddings": config.initial_context_length}
    theirs = GptOssConfig(
        hidden_size=config.hidden_size, num_attention_heads=config.num_attention_heads,
        head_dim=config.head_dim,
        max_position_embeddings=longest, rope_parameters=rope,
    )  # fmt: skip
    want, temperature = ROPE_INIT_FUNCTIONS[method](theirs, torch.device("cpu"), **kwargs)
    ours = scaled(config, length, "pi" if method == "linear" else method)  # type: ignore[arg-type]
    torch.testing.assert_close(inverse_frequencies(ours), want, rtol=2e-6, atol=0)
    assert concentration(ours) == pytest.approx(temperature, rel=1e-12)


# ---- schedule ----


def test_stages_scale_to_their_lengths() -> None:
    plain = replace(NANO, rope_scaling="none", rope_scaling_factor=1.0, max_context_length=256)
    for method in ("pi", "ntk", "ntk_by_parts", "yarn"):
        first, second = stages(plain, ((1024, 60), (2048, 40)), method)  # type: ignore[arg-type]
        assert (first.length, first.steps, second.length, second.steps) == (1024, 60, 2048, 40)
        assert (first.config.rope_scaling_factor, second.config.rope_scaling_factor) == (4.0, 8.0)
        assert {s.config.rope_scaling for s in (first, second)} == {method}
        assert (
            second.config.max_context_length == 2048 and second.config.initial_context_length == 256
        )
    assert [s.config.rope_scaling for s in stages(plain, ((1024, 60),), "none")] == ["none"]


@pytest.mark.parametrize(
    ("schedule", "method", "message"),
    [
        ((), "yarn", "must grow"),
        (((256, 5),), "yarn", "must grow"),
        (((1024, 5), (512, 5)), "pi", "must grow"),
        (((512, 0),), "pi", "a step at least"),
        (((512, 5),), "dynamic", "cannot be trained"),
        (((512, 5),), "longrope", "must be one of"),
    ],
)
def test_schedules_that_make_no_sense(schedule: Any, method: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stages(NANO, schedule, method)


# ---- loss by position ----


@pytest.fixture(scope="module")
def model() -> Transformer:
    built = Transformer(TINY)
    built.init_weights(3)
    return built


def document(n: int, seed: int = 0) -> list[int]:
    rng = Random(seed)
    return [rng.randrange(128) for _ in range(n)]


def plain_losses(model: Transformer, ids: list[int]) -> Tensor:
    with torch.no_grad():
        logits = model(torch.tensor(ids), Batch.packed([len(ids)]))
    return torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")


@settings(max_examples=examples(15), deadline=None)
@given(
    st.lists(st.integers(0, 90), min_size=1, max_size=6), st.integers(1, 200), st.integers(1, 4000)
)
def test_losses_however_they_are_packed(lengths: list[int], at_once: int, logits: int) -> None:
    built = Transformer(TINY)
    built.init_weights(3)
    documents = [document(n, n) for n in lengths]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TOKENS_AT_ONCE", at_once)
        patch.setattr(module, "LOGITS_AT_ONCE", logits)
        found = token_losses(built, documents)
    assert [len(x) for x in found] == [max(0, n - 1) for n in lengths]
    for ids, losses in zip(documents, found, strict=True):
        if len(ids) > 1:
            torch.testing.assert_close(losses, plain_losses(built, ids), rtol=1e-4, atol=1e-5)


def test_dynamic_is_ntk_for_each_documents_own_length(model: Transformer) -> None:
    documents = [document(20, 1), document(64, 2), document(64, 3), document(128, 4)]
    found = token_losses(model, documents, dynamic=True)
    for ids, losses in zip(documents, found, strict=True):
        with using(
            model, replace(TINY, rope_scaling="ntk", rope_scaling_factor=max(1.0, len(ids) / 32))
        ):
            torch.testing.assert_close(losses, plain_losses(model, ids), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0], plain_losses(model, documents[0]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[3], plain_losses(model, documents[3]), atol=1e-3)
    assert model.config is TINY


def test_evaluation_leaves_the_model_as_it_was(model: Transformer) -> None:
    ids = document(60)
    want = token_losses(model, [ids])[0]
    for block in model.layers:
        block.moe.capacity = 0.1
    assert torch.equal(token_losses(model.train(), [ids])[0], want), "nothing is dropped"
    assert model.training
    for block in model.layers:
        block.moe.capacity = None
    with pytest.raises(ZeroDivisionError), using(model, B20):
        raise ZeroDivisionError
    assert model.config is TINY
    model.eval()


class Largest(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [
            x.untyped_storage().nbytes() // x.element_size()
            for x in tree_leaves(out)
            if isinstance(x, Tensor)
        ]
        Largest.elements = max([Largest.elements, *made])
        return out


def test_a_long_text_is_never_all_logits_or_all_scores() -> None:
    """4096 tokens of a nano-like model: 8 million logits a text, 17 million scores a head."""
    built = Transformer(replace(NANO, num_hidden_layers=2, layer_types=(), num_experts=2))
    built.init_weights(0)
    Largest.elements = 0
    with Largest():
        token_losses(built, [document(4097)])
    assert 4096 * 128 <= Largest.elements <= module.LOGITS_AT_ONCE


# ---- needles ----


@dataclass(frozen=True)
class Written:
    document: str
    answer: str


class Characters:
    """One token a character, but for pairs of the same digit, which are one: so that texts join as
    tokens do.
    """

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for c in text:
            if ids and c.isdigit() and ids[-1] == ord(c):
                ids[-1] = 1 + int(c)
            else:
                ids.append(ord(c))
        return ids


def greedy(model: Transformer, ids: list[int], count: int) -> list[int]:
    """Token by token, all of the text again each time."""
    for _ in range(count):
        with torch.no_grad():
            ids = [*ids, int(model(torch.tensor(ids), Batch.packed([len(ids)]))[-1].argmax())]
    return ids[len(ids) - count :]


@pytest.mark.parametrize("dynamic", [False, True])
def test_needles_count_when_the_model_would_have_written_them(
    model: Transformer, dynamic: bool
) -> None:
    """Answers that are what the model writes, and the same with one letter changed, at every
    place.
    """
    tokenizer, made, config = Characters(), [], model.config

    def needle(rng: Random, count: Any, length: int) -> Written:
        letters = rng.randrange(1, 5)  # one, too: then nothing but the first token can tell
        text = "".join(rng.choice("abcdef ") for _ in range(length - 8 - letters))
        question = " " + "".join(rng.choice("xyz") for _ in range(6)) + ":"
        with using(model, scaled(config, length, "dynamic") if dynamic else config):
            answer = greedy(model, tokenizer.encode(text + question), letters)
        right = rng.random() < 0.5
        if not right:
            answer[rng.randrange(letters)] ^= 1
        made.append((length, right))
        written = "".join(map(chr, answer))
        assert count(text + question + written) == length
        return Written(text + question + written, written)

    found = needle_accuracy(model, tokenizer, needle, [20, 64, 150], count=12, dynamic=dynamic)
    for length in (20, 64, 150):
        rights = [right for n, right in made if n == length]
        assert len(rights) == 12 and 0 < sum(rights) < 12
        assert found[length] == sum(rights) / 12
    again = list(made)
    made.clear()
    needle_accuracy(model, tokenizer, needle, [64], count=12, dynamic=dynamic)
    assert made == [m for m in again if m[0] == 64], "the same seed makes the same needles"


def test_tokens_of_an_answer_that_joins_the_question() -> None:
    """As in a text that is encoded whole: "code 7" + "71" is "code ", "77", "1". What follows is
    left away.
    """
    ids, first = module._up_to_answer(Characters(), Written("71 ab code 771. Yes.", "71"))
    assert (
        ids == Characters().encode("71 ab code 771")
        and first == len("71 ab code ")
        and len(ids) - first == 2
    )


def test_needles_of_the_task(model: Transformer) -> None:
    """The documents are as long as asked for, and an untrained model finds nothing in them."""
    seen: dict[int, list[str]] = {300: [], 700: []}

    class Plain:
        def encode(self, text: str) -> list[int]:
            return list(text.encode("ascii"))

    def needle(rng: Random, count: Any, length: int) -> Needle:
        made = tasks_needle(rng, count, length, kind="one", split="held_out")
        seen[length].append(made.document)
        ids, first = module._up_to_answer(Plain(), made)
        assert bytes(ids[first:]).decode() == made.answer and bytes(ids).decode() in made.document
        return made

    assert needle_accuracy(model, Plain(), needle, list(seen), count=5) == {300: 0.0, 700: 0.0}
    for length, documents in seen.items():
        assert len(set(documents)) == 5 and all(length * 0.7 < len(d) <= length for d in documents)
