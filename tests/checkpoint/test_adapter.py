"""Adapters in peft's form, as its own library (0.21) writes them: the files are made by hand here,
and the changed matrices worked out from peft's documents, tensor by tensor. With peft installed a
slow test compares with the library itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import write_tiny
from torch import Tensor

import ossia
from ossia.batch import Batch
from ossia.checkpoint import (
    convert,
    export,
    load,
    mapped,
    open_checkpoint,
    peft,
    write_gguf,
    write_random,
)
from ossia.checkpoint.adapter import read_adapter
from ossia.checkpoint.mapped import is_mapped
from ossia.commands.main import main
from ossia.config import ModelConfig
from ossia.errors import CheckpointError
from ossia.kernels import cpu
from ossia.model import PackedExperts, Transformer
from ossia.model.moe import ChangedExperts
from ossia.train.settings import Lora
from ossia.train.weights.export import save_weights
from ossia.train.weights.lora import attach, lora_parameters
from ossia.train.weights.merge import merge

SMALL = ModelConfig(
    num_hidden_layers=2,
    hidden_size=64,
    intermediate_size=64,
    num_experts=4,
    experts_per_token=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=97,
    sliding_window=7,
    initial_context_length=32,
    max_context_length=256,
    rope_theta=10000.0,
    rope_scaling_factor=8.0,
    rope_ntk_beta=4.0,
)
E, D, F, V, R = 4, 64, 64, 97, 3
PREFIX = "base_model.model."
SETTINGS = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "openai/gpt-oss-20b",
    "r": R,
    "lora_alpha": 6,
    "lora_dropout": 0.05,
    "bias": "none",
    "target_modules": "all-linear",
    "inference_mode": True,
    "fan_in_fan_out": False,
    "use_rslora": False,
    "use_dora": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "init_lora_weights": True,
    "loftq_config": {},
    "layer_replication": None,
    "eva_config": None,
    "qalora_group_size": 16,
    "peft_version": "0.21.2",
    "megatron_config": None,
    "trainable_token_indices": None,
}
Tensors = dict[str, Tensor]
RNG = torch.Generator().manual_seed(7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights packed and as matrices: `hf` and `bf16`."""
    folder = tmp_path_factory.mktemp("base")
    write_random(SMALL, folder / "hf", seed=3)
    convert(folder / "hf", folder / "bf16", "hf-bf16")
    return folder


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=RNG) * 0.05


def adapter(home: Path, tensors: Tensors, **settings: Any) -> Path:
    home.mkdir(exist_ok=True)
    save_file(tensors, home / "adapter_model.safetensors", metadata={"format": "pt"})
    (home / "adapter_config.json").write_text(json.dumps(SETTINGS | settings))
    return home


def pair(module: str, inputs: int, outputs: int, rank: int = R) -> Tensors:
    return {
        f"{PREFIX}{module}.lora_A.weight": noise(rank, inputs),
        f"{PREFIX}{module}.lora_B.weight": noise(outputs, rank),
    }


def q_of(layer: int) -> str:
    return f"model.layers.{layer}.self_attn.q_proj"


def experts_of(layer: int) -> str:
    return f"model.layers.{layer}.mlp.experts"


def changed(stored: Tensors, deltas: Tensors) -> Tensors:
    """Tensors by Hugging Face's names, in float32."""
    return {name: tensor.float() + deltas.get(name, 0) for name, tensor in stored.items()}


def ab(tensors: Tensors, module: str) -> tuple[Tensor, Tensor]:
    return tuple(tensors[f"{PREFIX}{module}.lora_{x}.weight"] for x in "AB")  # type: ignore[return-value]


def expert_deltas(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """[E, in, out]: peft's `einsum("o r e, e r i -> e i o")`, written out."""
    rank = len(a) // E
    out = torch.zeros(E, a.shape[1], b.shape[0])
    for e in range(E):
        for r in range(rank):
            out[e] += torch.outer(a[e * rank + r], b[:, r * E + e]) * scale
    return out


Made = tuple[Tensors, dict[str, Any], Tensors]


def attention() -> Made:
    """Every layer's projections; ranks and factors by pattern."""
    tensors: Tensors = {}
    deltas: Tensors = {}
    sizes = {"q_proj": (D, 64), "k_proj": (D, 32), "v_proj": (D, 32), "o_proj": (64, D)}
    for layer in range(2):
        for name, (inputs, outputs) in sizes.items():
            rank = {("k_proj", 0): 5, ("v_proj", 1): 2}.get((name, layer), R)
            alpha = {"o_proj": 5}.get(name, 6)
            module = f"model.layers.{layer}.self_attn.{name}"
            tensors |= pair(module, inputs, outputs, rank)
            a, b = ab(tensors, module)
            deltas[f"{module}.weight"] = b @ a * (alpha / rank)
    ranks = {"layers.0.self_attn.k_proj": 5, r".*\.1\..*v_proj": 2}
    return tensors, {"rank_pattern": ranks, "alpha_pattern": {"o_proj": 5}}, deltas


def rslora() -> Made:
    tensors = pair(q_of(1), D, 64)
    a, b = ab(tensors, q_of(1))
    return tensors, {"use_rslora": True}, {f"{q_of(1)}.weight": b @ a * (6 / math.sqrt(R))}


def parameters() -> Made:
    """`target_parameters`: gate_up is wrapped first, then down; both for all experts."""
    tensors: Tensors = {}
    deltas: Tensors = {}
    for layer in range(2):
        module = experts_of(layer)
        tensors |= pair(f"{module}.base_layer", D, 2 * F, R * E)
        tensors |= pair(module, F, D, R * E)
        deltas[f"{module}.gate_up_proj"] = expert_deltas(*ab(tensors, f"{module}.base_layer"), 2.0)
        deltas[f"{module}.down_proj"] = expert_deltas(*ab(tensors, module), 1.0)
    named = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    patterns = {"alpha_pattern": {"experts.down_proj": R}}
    return tensors, {"target_modules": [], "target_parameters": named} | patterns, deltas


def swapped() -> Made:
    """As peft writes them where transformers does not say that the matrices are transposed."""
    module = experts_of(1)
    tensors = pair(f"{module}.base_layer", 2 * F, D, R * E) | pair(module, D, F, R * E)
    deltas = {}
    for name, path in (("gate_up_proj", f"{module}.base_layer"), ("down_proj", module)):
        deltas[f"{module}.{name}"] = expert_deltas(*ab(tensors, path), 2.0).transpose(1, 2)
    return tensors, {}, deltas


def only_down() -> Made:
    module = experts_of(0)
    tensors = pair(module, F, D, R * E)
    return tensors, {}, {f"{module}.down_proj": expert_deltas(*ab(tensors, module), 2.0)}


def experts_apart() -> Made:
    """unsloth: a linear map an expert, only some of them changed, one with a rank of its own."""
    stem = experts_of(1)
    tensors: Tensors = {}
    delta = torch.zeros(E, D, 2 * F)
    for expert, rank in ((1, R), (3, 2)):
        module = f"{stem}.gate_up_projs.{expert}"
        tensors |= pair(module, D, 2 * F, rank)
        a, b = ab(tensors, module)
        delta[expert] = (b @ a * (6 / rank)).T
    pattern = {"rank_pattern": {r"gate_up_projs\.3": 2}}
    return tensors, pattern, {f"{stem}.gate_up_proj": delta}


def the_rest() -> Made:
    """Router, embedding and unembedding."""
    router = "model.layers.0.mlp.router"
    table = "model.embed_tokens"
    tensors = pair(router, D, E) | pair("lm_head", D, V)
    tensors |= {
        f"{PREFIX}{table}.lora_embedding_A": noise(R, V),
        f"{PREFIX}{table}.lora_embedding_B": noise(D, R),
    }
    deltas = {}
    for module in (router, "lm_head"):
        a, b = ab(tensors, module)
        deltas[f"{module}.weight"] = b @ a * 2.0
    a, b = (tensors[f"{PREFIX}{table}.lora_embedding_{x}"] for x in "AB")
    deltas[f"{table}.weight"] = (b @ a).T * 2.0
    return tensors, {}, deltas


def router_apart() -> Made:
    """unsloth's name of a router."""
    tensors = pair("model.layers.1.mlp.router.linear", D, E)
    a, b = ab(tensors, "model.layers.1.mlp.router.linear")
    return tensors, {}, {"model.layers.1.mlp.router.weight": b @ a * 2.0}


KINDS: dict[str, Callable[[], Made]] = {
    made.__name__: made
    for made in (
        attention,
        rslora,
        parameters,
        swapped,
        only_down,
        experts_apart,
        the_rest,
        router_apart,
    )
}


def logits(model: Transformer) -> Tensor:
    tokens = torch.arange(40) * 7 % model.config.vocab_size
    with torch.no_grad():
        return model(tokens, Batch.packed([25, 15])).float()  # type: ignore[no-any-return]


def expected(folder: Path, home: Path, deltas: Tensors) -> Path:
    """A checkpoint with the sums in float32."""
    home.mkdir()
    stored = load_file(folder / "bf16" / "model.safetensors")
    assert set(deltas) <= set(stored)
    save_file(
        {k: v.contiguous() for k, v in changed(stored, deltas).items()}, home / "model.safetensors"
    )
    (home / "config.json").write_bytes((folder / "bf16" / "config.json").read_bytes())
    return home


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", ["hf", "bf16"])
def test_changes_are_added_when_loading(base: str, kind: str, folder: Path, tmp_path: Path) -> None:
    tensors, settings, deltas = KINDS[kind]()
    home = adapter(tmp_path / "a", tensors, **settings)
    want = logits(load(expected(folder, tmp_path / "want", deltas), "float32"))
    plain = logits(load(folder / base, "float32"))
    got = logits(load(folder / base, "float32", adapter=home))
    assert not torch.allclose(want, plain, atol=1e-2)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_one_command_merges_them(kind: str, folder: Path, tmp_path: Path) -> None:
    tensors, settings, deltas = KINDS[kind]()
    home = adapter(tmp_path / "a", tensors, **settings)
    words = [f"model={folder / 'bf16'}", f"adapter={home}", "layout=hf-bf16"]
    assert main(["train", "merge", *words, "--out", str(tmp_path / "m"), "--quiet"]) == 0
    merged = open_checkpoint(tmp_path / "m" / "model").tensors
    wanted = open_checkpoint(expected(folder, tmp_path / "want", deltas)).tensors
    before = open_checkpoint(folder / "bf16").tensors
    for name, tensor in wanted.items():
        found = merged[name].float()
        torch.testing.assert_close(found, tensor, rtol=2.0**-8, atol=1e-6)
        if torch.equal(tensor, before[name].float()):
            assert torch.equal(found, tensor), name


def test_rounded_while_loading_is_what_merging_writes(folder: Path, tmp_path: Path) -> None:
    """With `experts="mxfp4"` the compiled kernels can serve; the cost is known."""
    tensors, settings, _ = parameters()
    more, ranks, _ = attention()
    patterns = {key: settings.get(key, {}) | value for key, value in ranks.items()}
    home = adapter(tmp_path / "a", tensors | more, **settings | patterns)
    merge(folder / "hf", home, tmp_path / "m")
    found = load(folder / "hf", adapter=home, experts="mxfp4")
    assert found.rounding is not None and found.rounding.relative_rmse > 0
    state = found.state_dict()
    for name, tensor in open_checkpoint(tmp_path / "m").tensors.items():
        assert torch.equal(state[name], tensor), name
    assert all(isinstance(b.moe.experts.down, PackedExperts) for b in found.layers)
    beside = load(folder / "hf", adapter=home)
    assert beside.rounding is None
    assert all(isinstance(b.moe.experts.down, ChangedExperts) for b in beside.layers)
    with pytest.raises(CheckpointError, match="merge the adapter into a checkpoint"):
        export(beside, tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_files_of_changes_are_named_before_they_are_read(folder: Path, tmp_path: Path) -> None:
    """So that the process can say which one was truncated."""
    peft_home = adapter(tmp_path / "a", rslora()[0])
    save_weights(attach(load(folder / "hf"), Lora(R)), tmp_path / "run")
    for home in (peft_home, tmp_path / "run"):
        changes = read_adapter(home, SMALL).changes
        assert any(is_mapped(change.a) for change in changes.values())
        held = [its for its in mapped._maps.values() if its.path.parent == home]
        is_compiled = not isinstance(cpu.compiled(), str)
        assert [its.is_named for its in held] == [is_compiled]


def test_a_gguf_can_be_the_base(folder: Path, tmp_path: Path) -> None:
    tensors, settings, _ = parameters()
    home = adapter(tmp_path / "a", tensors, **settings)
    write_gguf(folder / "hf", tmp_path / "base.gguf")
    models = [
        load(path, "float32", adapter=home) for path in (folder / "hf", tmp_path / "base.gguf")
    ]
    assert torch.equal(*map(logits, models))
    words = [f"model={tmp_path / 'base.gguf'}", f"adapter={home}"]
    assert main(["train", "merge", *words, "--out", str(tmp_path / "m"), "--quiet"]) == 0
    merge(folder / "hf", home, tmp_path / "want")
    wanted = open_checkpoint(tmp_path / "want").tensors
    for name, tensor in open_checkpoint(tmp_path / "m" / "model").tensors.items():
        assert torch.equal(tensor.float(), wanted[name].float()), name


def test_what_a_run_left_is_an_adapter_too(folder: Path, tmp_path: Path) -> None:
    model = attach(load(folder / "hf", "float32"), Lora(R))
    with torch.no_grad():
        for p in lora_parameters(model).values():
            p.add_(noise(*p.shape))
    save_weights(model, tmp_path / "run")
    got = logits(load(folder / "hf", "float32", adapter=tmp_path / "run"))
    torch.testing.assert_close(got, logits(model), rtol=1e-4, atol=1e-4)


# ---- doors ---------------------------------------------------------------------------------------


def test_every_command_takes_an_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write_tiny(tmp_path / "base")
    config = open_checkpoint(base).config
    tensors = pair(q_of(0), config.hidden_size, config.q_dim) | pair(
        experts_of(0), config.intermediate_size, config.hidden_size, R * config.num_experts
    )
    big = {name: tensor * 20 for name, tensor in tensors.items()}
    home = adapter(tmp_path / "a", big)
    ids = [3, 141, 59, 26]
    plain = ossia.load(base)
    with_it = ossia.load(base, adapter=home)
    assert abs(plain.logits(ids) - with_it.logits(ids)).max() > 0.01
    assert with_it.serving.why_not is not None and "--experts mxfp4" in with_it.serving.why_not
    words = [
        "generate",
        str(base),
        "--ids",
        "3,141,59,26",
        "--temperature",
        "0",
        "--max-tokens",
        "8",
    ]
    wanted = list(with_it.generate(ids, temperature=0, max_tokens=8))
    for more in (["--adapter", str(home)], ["--adapter", str(home), "--dtype", "bfloat16"]):
        assert main([*words, "--json", *more]) == 0
        assert json.loads(capsys.readouterr().out)["ids"] == wanted
    assert main([*words, "--adapter", str(home), "--experts", "mxfp4"]) == 0
    assert "rounded to MXFP4" in capsys.readouterr().err
    for command in (["chat"], ["serve", "--port", "0"], ["eval"], ["generate", "--ids", "1"]):
        assert main([command[0], str(base), *command[1:], "--adapter", str(base)]) == 2
        assert "no adapter: neither adapter.json" in capsys.readouterr().err


def test_an_adapter_is_no_model(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = adapter(tmp_path / "a", rslora()[0])
    save_weights(attach(load(folder / "hf", "float32"), Lora(R)), tmp_path / "run")
    for path, base in ((home, r" \(of 'openai/gpt-oss-20b'\)"), (tmp_path / "run", "")):
        wanted = rf"is an adapter, changes to a model and no model{base}.*--adapter.*train merge"
        with pytest.raises(CheckpointError, match=wanted):
            ossia.load(path)
        assert main(["info", str(path)]) == 2
        assert "is an adapter" in capsys.readouterr().err


# ---- what is not read ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("peft_type", "IA3"),
        ("use_dora", True),
        ("modules_to_save", ["lm_head"]),
        ("bias", "lora_only"),
        ("fan_in_fan_out", True),
        ("lora_bias", True),
        ("layer_replication", [[0, 2]]),
        ("use_qalora", True),
        ("trainable_token_indices", [5]),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("kasa_config", {"a": 1}),
        ("use_something_new", True),
        ("alora_invocation_tokens", [1]),
        ("loftq_config", {"loftq_bits": 4}),
    ],
)
def test_variants_are_refused_by_name(
    setting: str, value: Any, folder: Path, tmp_path: Path
) -> None:
    home = adapter(tmp_path / "a", rslora()[0], **{setting: value})
    with pytest.raises(
        CheckpointError, match=f"adapter_config.json: {setting} is .*merge_and_unload"
    ):
        load(folder / "hf", adapter=home)
    with pytest.raises(CheckpointError, match=setting):
        merge(folder / "hf", home, tmp_path / "m")
    assert not [path for path in tmp_path.iterdir() if path.name != "a"]


def damaged(tensors: Tensors) -> dict[str, tuple[Tensors, dict[str, Any], str]]:
    name = f"{PREFIX}{q_of(1)}.lora_A.weight"
    whole = f"{PREFIX}lm_head.weight"
    magnitude = f"{PREFIX}{q_of(1)}.lora_magnitude_vector"
    elsewhere = pair("model.layers.7.self_attn.q_proj", D, 64)
    lone = {key: value for key, value in tensors.items() if key != name}
    large = {key: tensor * 1e3 for key, tensor in tensors.items()}
    return {
        "another tensor": (
            tensors | {whole: noise(V, D)},
            {},
            "'base_model.model.lm_head.weight' is no fac",
        ),
        "DoRA's": (tensors | {magnitude: noise(D)}, {}, "lora_magnitude_vector' is no factor"),
        "no such layer": (elsewhere, {}, "which the base model does not have; give the model"),
        "no such module": (pair("model.layers.0.mlp.gate", D, E), {}, "does not have"),
        "half a pair": (lone, {}, "lacks lora_A or lora_B"),
        "another rank": (tensors, {"r": 8}, "has rank 3, adapter_config.json says 8"),
        "another width": (pair(q_of(1), 32, 64), {}, "for a model of other shapes.*give the model"),
        "another height": (pair(q_of(1), D, 48), {}, "for a model of other shapes"),
        "not a number": (tensors | {name: noise(R, D) * torch.nan}, {}, "infinite or not a number"),
        "experts of others": (
            pair(experts_of(0), 96, D, R * E),
            {},
            "neither of the base's two matrices",
        ),
        "too few experts": (pair(experts_of(0), D, 2 * F, 7), {}, "neither of the base's two"),
        "an expert too many": (
            pair(f"{experts_of(0)}.down_projs.9", F, D),
            {},
            "expert 9, does not fit",
        ),
        "no scale": (tensors, {"lora_alpha": None}, "must be finite numbers above 0"),
        "no end": (tensors, {"lora_alpha": math.inf}, "finite numbers above 0.*put right"),
        "digits": (tensors, {"lora_alpha": 10**400}, "finite numbers above 0"),
        "a huge scale": (tensors, {"lora_alpha": 1e200}, "a scale .* float32 cannot hold"),
        "huge sums": (large, {"lora_alpha": 1e38}, "with the change added: holds values"),
        "a list": (tensors, {"rank_pattern": [1]}, "rank_pattern must be an object"),
        "a bracket": (
            tensors,
            {"rank_pattern": {"(": 2}},
            "pattern '\\(' of rank_pattern .* write",
        ),
        "no patience": (
            tensors,
            {"alpha_pattern": {r"(a|.|.)+\d": 2}},
            "timed out; write the modules'",
        ),
    }


@pytest.mark.parametrize("what", damaged({}))
def test_what_does_not_fit_is_named(
    what: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peft, "PATIENCE", 0.1)
    tensors, settings, message = damaged(rslora()[0])[what]
    home = adapter(tmp_path / "a", tensors, **settings)
    with pytest.raises(CheckpointError, match=message):
        load(folder / "hf", adapter=home)
    with pytest.raises(CheckpointError, match=message):
        merge(folder / "hf", home, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_pickle_is_not_read(folder: Path, tmp_path: Path) -> None:
    home = adapter(tmp_path / "a", rslora()[0])
    (home / "adapter_model.safetensors").rename(home / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="save_pretrained"):
        load(folder / "hf", adapter=home)


# ---- the library itself --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("experts", [False, True])
def test_the_same_as_peft(experts: bool, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    write_random(replace(SMALL, vocab_size=V), tmp_path / "base", seed=1, layout="hf-bf16")
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    base = transformers.GptOssForCausalLM.from_pretrained(tmp_path / "base", **options)
    named = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"] if experts else None
    config = peft.LoraConfig(
        r=R, lora_alpha=5, target_modules=["q_proj", "o_proj"], target_parameters=named
    )
    theirs = peft.get_peft_model(base, config).eval()
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if "lora_" in name:
                p.copy_(noise(*p.shape))
    theirs.save_pretrained(tmp_path / "a")
    tokens = torch.arange(40) * 7 % V
    with torch.no_grad():
        want = theirs(tokens[:25].unsqueeze(0)).logits[0]
    got = logits(load(tmp_path / "base", "float32", adapter=tmp_path / "a"))[:25]
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
