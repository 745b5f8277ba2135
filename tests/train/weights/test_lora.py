"""LoRA: gradients against autograd of the plain formula, what is frozen, memory, and adapters as
files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from ossia import checkpoint, mxfp4
from ossia.batch import Batch
from ossia.checkpoint.adapter import A, B, read_adapter
from ossia.config import ModelConfig
from ossia.data.packing import Example
from ossia.errors import CheckpointError, ConfigError
from ossia.kernels.experts import experts
from ossia.kernels.experts_lora import FrozenMatrices, LowRank, experts_lora
from ossia.kernels.experts_training import PAD
from ossia.model import PackedExperts, Transformer
from ossia.train.loop import train
from ossia.train.run import Run
from ossia.train.settings import Balance, Hyperparameters, Lora
from ossia.train.weights.adapter import load_adapter, save_peft
from ossia.train.weights.export import save_weights
from ossia.train.weights.lora import LoraExperts, attach, lora_parameters
from ossia.train.weights.quantization import set_fake_quantize

TINY = replace(
    ModelConfig.preset("nano"), num_hidden_layers=2, layer_types=(), hidden_size=32,
    intermediate_size=32,
    num_experts=4, num_attention_heads=2, num_key_value_heads=1, head_dim=16, vocab_size=64,
    sliding_window=8,
    rope_ntk_beta=4.0,
)  # fmt: skip
RANK, SCALE = 3, 0.7


def tiny(folder: Path, experts: str = "packed") -> Transformer:
    checkpoint.write_random(
        TINY, folder, 0, "hf" if experts == "packed" else "hf-bf16", overwrite=True
    )
    return checkpoint.load(folder, "float32")


def moved(model: Transformer, seed: int = 0, size: float = 0.1) -> Transformer:
    """With changes that are not zero."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in lora_parameters(model).values():
            p.add_(torch.randn(p.shape, generator=rng, dtype=p.dtype), alpha=size)
    return model


def logits(model: Transformer) -> Tensor:
    tokens = torch.arange(40) * 7 % TINY.vocab_size
    with torch.no_grad():
        return model(tokens, Batch.packed([25, 15]))


# ---- the kernel ----


def layer(
    experts: int, hidden: int, width: int, tokens: int
) -> tuple[list[PackedExperts], dict[str, Tensor]]:
    """Packed matrices (gate_up, down) and everything that has a gradient, in float64."""
    rng = torch.Generator().manual_seed(experts)
    leaves = [PackedExperts(experts, 2 * width, hidden), PackedExperts(experts, hidden, width)]
    for leaf in leaves:
        leaf.blocks.random_(0, 256, generator=rng)
        leaf.scales.fill_(mxfp4.BIAS - 4)
        leaf.bias.data = torch.randn(leaf.bias.shape, generator=rng, dtype=torch.float64)
    shapes = {
        "x": (tokens, hidden), "logits": (tokens, experts),
        "a1": (experts, RANK, hidden), "b1": (experts, 2 * width, RANK),
        "a2": (experts, RANK, width), "b2": (experts, hidden, RANK),
    }  # fmt: skip
    drawn = {n: torch.randn(s, generator=rng, dtype=torch.float64) * 0.3 for n, s in shapes.items()}
    return leaves, {name: tensor.requires_grad_() for name, tensor in drawn.items()}


def ours(leaves: list[PackedExperts], t: dict[str, Tensor], top_k: int, limit: float) -> Tensor:
    top, choice = t["logits"].topk(top_k)
    changes = [LowRank(t["a1"], t["b1"], SCALE), LowRank(t["a2"], t["b2"], SCALE)]
    frozen = [FrozenMatrices(leaf.matrix, leaf.bias) for leaf in leaves]
    pairs = zip(frozen, changes, strict=True)
    return experts_lora(t["x"], choice, top.softmax(-1), *pairs, limit)


def exact(leaves: list[PackedExperts], t: dict[str, Tensor], top_k: int, limit: float) -> Tensor:
    """The plain formula token by token, everything in float64."""
    top, choice = t["logits"].topk(top_k)
    weight = top.softmax(-1)
    w = [mxfp4.decode(leaf.blocks, leaf.scales, torch.float64) for leaf in leaves]
    w = [w[n] + SCALE * t[f"b{n + 1}"] @ t[f"a{n + 1}"] for n in (0, 1)]
    rows = []
    for n in range(len(choice)):
        y = torch.zeros(w[1].shape[1], dtype=torch.float64)
        for e, share in zip(choice[n].tolist(), weight[n], strict=True):
            h = w[0][e] @ t["x"][n] + leaves[0].bias[e]
            gate, up = h[0::2].clamp(max=limit), h[1::2].clamp(-limit, limit)
            y = y + share * (
                w[1][e] @ (gate * torch.sigmoid(1.702 * gate) * (up + 1)) + leaves[1].bias[e]
            )
        rows.append(y)
    return torch.stack(rows)


@pytest.mark.parametrize(("count", "tokens", "top_k"), [(4, 30, 2), (6, 3, 3), (1, 9, 1)])
def test_gradients_are_those_of_the_plain_formula(count: int, tokens: int, top_k: int) -> None:
    """In float64: values and gradients of x, the router's logits and all four factors."""
    leaves, t = layer(count, 64, 32, tokens)
    got, want = ours(leaves, t, top_k, 1.5), exact(leaves, t, top_k, 1.5)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    grad = torch.randn_like(want)
    inputs = tuple(t.values())
    pairs = zip(
        torch.autograd.grad(got, inputs, grad), torch.autograd.grad(want, inputs, grad), strict=True
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    moving = torch.autograd.grad(ours(leaves, t, top_k, 1.5), inputs, grad)
    assert all(
        bool(g.any()) for name, g in zip(t, moving, strict=True) if name != "logits" or top_k > 1
    )


def test_one_of_two_matrices_may_have_no_change() -> None:
    leaves, t = layer(4, 32, 32, 12)
    top, choice = t["logits"].topk(2)
    zero = dict(t) | {"b2": torch.zeros_like(t["b2"])}
    frozen = [FrozenMatrices(leaf.matrix, leaf.bias) for leaf in leaves]
    changed = frozen[0], LowRank(t["a1"], t["b1"], SCALE)
    got = experts_lora(t["x"], choice, top.softmax(-1), changed, (frozen[1], None), 7.0)
    want = exact(leaves, zero, 2, 7.0)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    inputs = (t["x"], t["a1"], t["b1"])
    for a, b in zip(
        torch.autograd.grad(got.sum(), inputs), torch.autograd.grad(want.sum(), inputs), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_no_decoded_matrix_is_kept_for_the_backward_pass() -> None:
    leaves, t = layer(8, 128, 64, 10)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        out = ours(leaves, t, 2, 7.0)
    smallest = min(leaf.blocks[0].numel() * 2 for leaf in leaves)
    factors = {t[name].data_ptr() for name in ("a1", "b1", "a2", "b2")}
    rows = 8 * PAD  # of the table of assignments, at most
    others = [x for x in kept if x.data_ptr() not in factors]
    assert len(kept) - len(others) == 4 and all(x.shape[0] <= rows for x in others)
    assert not any(
        x.shape[-2:] in ((128, 128), (128, 64)) and x.numel() >= smallest for x in others
    )
    out.sum().backward()


def test_an_expert_that_nobody_chose_has_a_gradient_of_zero() -> None:
    leaves, t = layer(4, 32, 32, 6)
    with torch.no_grad():
        t["logits"][:, 2] = -1e3
    grads = torch.autograd.grad(ours(leaves, t, 2, 7.0).sum(), (t["a1"], t["b2"]))
    assert all(not bool(g[2].any()) and bool(g[[0, 1, 3]].any()) for g in grads)


# ---- the model ----


@pytest.mark.parametrize("kind", ["packed", "trainable"])
def test_nothing_changes_at_first_and_only_changes_are_trained(kind: str, tmp_path: Path) -> None:
    model = tiny(tmp_path / "m", kind)
    before, names = logits(model), set(model.state_dict())
    attach(model, Lora(rank=4))
    assert logits(model).equal(before)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(lora_parameters(model)) == set(model.state_dict()) - names
    assert len(trained) == TINY.num_hidden_layers * 2 * (4 + 2)
    assert {name for name in trained if name.startswith("layers.0.moe")} == {
        f"layers.0.moe.experts.{m}.lora_{x}" for m in ("gate_up", "down") for x in "ab"
    }
    assert bool(model.get_parameter("layers.1.attn.out.lora_a").any())
    assert not any(
        bool(p.any()) for name, p in lora_parameters(model).items() if name.endswith("_b")
    )
    with pytest.raises(ConfigError, match="already"):
        attach(model, Lora())


@pytest.mark.parametrize("lora", [Lora(4), Lora(4, experts=False), Lora(4, attention=False)])
@pytest.mark.parametrize("kind", ["packed", "trainable"])
def test_with_and_without_gradients_the_model_is_the_same(
    kind: str, lora: Lora, tmp_path: Path
) -> None:
    """The training kernel and the one for inference agree, and every change has a gradient."""
    model = moved(attach(tiny(tmp_path / "m", kind), lora))
    found: dict[int, Tensor] = {}
    out = model(torch.arange(40) * 7 % TINY.vocab_size, Batch.packed([25, 15], router_logits=found))
    torch.testing.assert_close(out.detach(), logits(model), rtol=1e-4, atol=1e-4)
    grads = torch.autograd.grad(out.square().sum(), list(lora_parameters(model).values()))
    assert all(bool(g.any()) for g in grads)


def test_a_change_is_what_adding_it_to_the_weights_is(tmp_path: Path) -> None:
    model = moved(attach(tiny(tmp_path / "m", "trainable"), Lora(4, alpha=6.0)))
    plain_model = checkpoint.load(tmp_path / "m", "float32")
    state = {name: tensor.clone().float() for name, tensor in plain_model.state_dict().items()}
    for name, a in lora_parameters(model).items():
        if name.endswith("_a"):
            b = model.get_parameter(name.removesuffix("_a") + "_b")
            state[name.replace("lora_a", "weight")] += 1.5 * (b @ a).detach()
    plain_model.load_state_dict(state, assign=True)
    torch.testing.assert_close(logits(model), logits(plain_model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", ["floor", "rceil", "even", "best"])
def test_fake_quantized_changes(rule: mxfp4.ScaleRule, tmp_path: Path) -> None:
    """The forward sees matrix and change rounded together; the factors' gradients are those of the
    rounded model.
    """
    model = moved(attach(tiny(tmp_path / "m"), Lora(4)), size=0.3)
    set_fake_quantize(model, rule)
    swapped = next(m for m in model.modules() if isinstance(m, LoraExperts))
    leaf = swapped.gate_up
    w = leaf.matrix(1, torch.float32) + Lora(4).alpha / 4 * (leaf.lora_b[1] @ leaf.lora_a[1])  # type: ignore[index]
    assert swapped.matrix(leaf, 1, torch.float32).equal(
        mxfp4.decode(*mxfp4.encode(w, rule), torch.float32)
    )
    x = torch.randn(9, 32, requires_grad=True)
    choice, weight = torch.full((9, 1), 1), torch.ones(9, 1)
    got = swapped(x, choice, weight, 7.0)
    parts = swapped.gate_up, swapped.down
    whole = [swapped.matrix(part, 1, torch.float32).detach().requires_grad_() for part in parts]
    pairs = [((lambda e, dtype, w=w: w), part.bias) for w, part in zip(whole, parts, strict=True)]
    want = experts(x, choice, weight, *pairs, 7.0)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    grad = torch.randn_like(want)
    dw = torch.autograd.grad(want, whole, grad)
    for part, d in zip(parts, dw, strict=True):
        da, db = torch.autograd.grad(got, (part.lora_a, part.lora_b), grad, retain_graph=True)
        s = Lora(4).alpha / 4
        torch.testing.assert_close(da[1], s * part.lora_b[1].T @ d, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(db[1], s * d @ part.lora_a[1].T, rtol=1e-4, atol=1e-4)


# ---- runs and files ----


def examples(state: int | None) -> Iterator[tuple[Example, int]]:
    index = state or 0
    while True:
        rng = Random(index)
        ids = [rng.randrange(64)] * rng.randrange(5, 30)
        yield Example(ids, [True] * len(ids)), index + 1
        index += 1


def run(folder: Path, out: Path, **changes: object) -> Run:
    hyper = Hyperparameters(
        tokens_per_step=200, longest=100, peak_lr=1e-2, warmup=2, optimizer="adamw",
        weight_decay=0.0,
        balance=Balance("none", router_z=0.0), shards=1,
    )  # fmt: skip
    given: dict[str, Any] = {"lora": Lora(4), "save_every": 3, "device": "cpu"}
    return Run("lora", TINY, examples, 8, hyper, out, folder, **given | changes)


def test_a_run_trains_changes_resumes_and_stores_them_alone(tmp_path: Path) -> None:
    tiny(tmp_path / "m")
    bytes_before = (tmp_path / "m" / "model.safetensors").read_bytes()
    whole = train(run(tmp_path / "m", tmp_path / "a"))
    train(run(tmp_path / "m", tmp_path / "b"), stop_after=4)
    resumed = train(run(tmp_path / "m", tmp_path / "b"))
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == bytes_before
    for (name, a), b in zip(
        lora_parameters(whole).items(), lora_parameters(resumed).values(), strict=True
    ):
        assert a.equal(b) and bool(a.any()), name
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < losses[0] - 0.1
    changes = read_adapter(tmp_path / "a", TINY).changes
    assert {f"{stem}.{x}" for stem in changes for x in (A, B)} == set(lora_parameters(whole))
    again = load_adapter(checkpoint.load(tmp_path / "m", "float32"), tmp_path / "a")
    assert logits(again).equal(logits(whole))


@pytest.mark.slow
def test_a_run_as_a_large_model_needs_it(tmp_path: Path) -> None:
    """bfloat16 products, activations computed again, several parts a step."""
    tiny(tmp_path / "m")
    wanted = run(tmp_path / "m", tmp_path / "a")
    hyper = replace(
        wanted.hyper, precision="bfloat16", checkpoint_layers=True, accumulate=2, shards=2
    )
    model = train(replace(wanted, hyper=hyper))
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < losses[0] - 0.1
    assert all(p.dtype == torch.float32 and bool(p.any()) for p in lora_parameters(model).values())


def test_files_that_are_no_adapter_are_refused(tmp_path: Path) -> None:
    model = attach(tiny(tmp_path / "m"), Lora(4))
    save_weights(model, tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"no adapter: neither adapter\.json"):
        read_adapter(tmp_path / "m", TINY)
    settings = json.loads((tmp_path / "a" / "adapter.json").read_text())
    for wrong, message in (
        ({"rank": 5}, "expected"),
        ({"rank": 0}, "rank 0"),
        ({"alpha": math.inf}, "alpha inf"),
        ({"alpha": 1e300}, "scale .* float32 cannot hold"),
        ({"dropout": 1}, "dropout"),
    ):
        (tmp_path / "a" / "adapter.json").write_text(json.dumps(settings | wrong))
        with pytest.raises(CheckpointError, match=message):
            load_adapter(tiny(tmp_path / "m"), tmp_path / "a")
    (tmp_path / "a" / "adapter.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="other shapes"):
        read_adapter(tmp_path / "a", replace(TINY, num_experts=8))
    with torch.no_grad():
        model.get_parameter("layers.0.attn.q.lora_a")[0, 0] = torch.nan
    save_weights(model, tmp_path / "a")
    with pytest.raises(CheckpointError, match="not a number"):
        read_adapter(tmp_path / "a", TINY)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_attention_adapter_means_the_same_to_peft(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    model = moved(attach(tiny(tmp_path / "m", "trainable"), Lora(4, experts=False)))
    save_weights(model, tmp_path / "a")
    save_peft(read_adapter(tmp_path / "a", TINY), tmp_path / "peft", "base")
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    base = transformers.GptOssForCausalLM.from_pretrained(tmp_path / "m", **options)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    tokens = torch.arange(30) * 5 % TINY.vocab_size
    with torch.no_grad():
        want, got = theirs(tokens.unsqueeze(0)).logits[0], model(tokens, Batch.packed([30]))
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
    with pytest.raises(ConfigError, match="experts"):
        save_weights(attach(tiny(tmp_path / "e"), Lora(4)), tmp_path / "b")
        save_peft(read_adapter(tmp_path / "b", TINY), tmp_path / "p", "base")
